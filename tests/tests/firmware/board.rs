//! An emulated microcontroller whose console is a socket of ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::repository;
use super::wire::Wire;

/// Silence after which something is stuck: the emulator is slow on a busy machine, but not that slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(240);

/// A running program.
pub(super) struct Board {
    emulator: Child,
    console: BufReader<TcpStream>,
}

/// A line of the device.
pub(super) enum Said {
    Verdict { number: u32, verdict: String, bits: String },
    Answer { number: u32, origin: String, text: String },
}

/// Builds an example as `firmware-examples/run.sh` does, which says what is missing, or installs it where it may.
pub(super) fn build(example: &str) -> PathBuf {
    let script = repository().join("firmware-examples/run.sh");
    let output = Command::new(script)
        .args(["build", example])
        // Cargo's own variables are about the build of this test.
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "firmware-examples/run.sh build {example}: {errors}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

impl Board {
    /// Starts the program, its first serial port here and its second at the end of the wire.
    pub(super) fn start(program: &PathBuf, wire: &Wire) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let console = format!("tcp:{}", listener.local_addr().unwrap());
        let emulator = Command::new("qemu-system-arm")
            .args([
                "-M",
                "mps2-an386",
                "-cpu",
                "cortex-m4",
                "-icount",
                "shift=0",
                "-display",
                "none",
                "-monitor",
                "none",
            ])
            .args(["-semihosting-config", "enable=on,target=native"])
            .args(["-serial", &console, "-serial", &wire.device_address(), "-kernel"])
            .arg(program)
            .spawn()
            .unwrap();
        wire.accept_device();
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { emulator, console: BufReader::new(stream) }
    }

    pub(super) fn type_line(&mut self, text: &str) {
        writeln!(self.console.get_mut(), "{text}").unwrap();
    }

    /// The next line, which must be one of the two kinds.
    pub(super) fn next(&mut self) -> Said {
        let mut line = String::new();
        self.console.read_line(&mut line).unwrap();
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(answer) = line.strip_prefix("answer ") {
            let (head, text) = answer.split_once("): ").unwrap();
            let (number, origin) = head.split_once(" (").unwrap();
            return Said::Answer { number: number.parse().unwrap(), origin: origin.into(), text: text.into() };
        }
        let (number, rest) = line.split_once(": ").unwrap_or_else(|| panic!("the device said {line:?}"));
        let (verdict, _) = rest.split_once(", ").unwrap_or_else(|| panic!("the device said {line:?}"));
        let (_, bits) = rest.rsplit_once('[').unwrap();
        Said::Verdict {
            number: number.parse().unwrap(),
            verdict: verdict.into(),
            bits: bits.trim_end_matches(']').into(),
        }
    }

    /// Types Ctrl-D; what the device says last. Its exit code must be that of success.
    pub(super) fn end(mut self) -> String {
        self.console.get_mut().write_all(&[4]).unwrap();
        let mut rest = String::new();
        self.console.read_to_string(&mut rest).unwrap();
        assert!(self.emulator.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It has ended by itself unless the test failed.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// A text as the device prints it: in one line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
