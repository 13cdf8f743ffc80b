//! A Python of the tests' own: a virtual environment with pinned packages, made once in Margay's cache folder by the
//! person's own interpreter and package installer. Others' programs check there what Margay writes.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use margay::device::library::Locate;

/// A virtual environment that is ready to run.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
}

/// What goes wrong here fails a test; its text is all that matters.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// ONNX's checker and ONNX Runtime's Python package, with what they need to run: about 55 MB to download.
pub const ONNX: Requirements = Requirements {
    name: "onnx",
    packages: &[
        "onnx==1.23.2",
        "onnxruntime==1.31.1",
        "numpy==2.3.5",
        "protobuf==6.33.1",
        "ml_dtypes==0.5.4",
        "typing_extensions==4.15.0",
        "flatbuffers==25.9.23",
        "packaging==25.0",
    ],
};

/// Hugging Face transformers on PyTorch, to compute what a checkpoint means, and what it reads GGUF files with. PyTorch alone
/// takes several gigabytes.
pub const TRANSFORMERS: Requirements = Requirements {
    name: "transformers",
    packages: &["torch==2.15.0", "transformers==5.23.0", "safetensors==0.8.0", "gguf==0.19.0", "accelerate==1.15.0"],
};

/// OpenAI's client for Python.
pub const OPENAI: Requirements = Requirements { name: "openai", packages: &["openai==3.54.0"] };

/// The protocol of OpenTelemetry, to read what was exported.
pub const OPENTELEMETRY: Requirements =
    Requirements { name: "opentelemetry", packages: &["opentelemetry-proto==1.45.2", "protobuf==6.33.1"] };

/// Packages at exact versions.
#[derive(Debug, Clone, Copy)]
pub struct Requirements {
    /// What the environment's folder is called.
    pub name: &'static str,
    /// `package==version` each.
    pub packages: &'static [&'static str],
}

impl Python {
    /// The environment with these packages, made now if it is not there. Several processes may ask at once.
    ///
    /// # Errors
    /// When there is no cache folder, no Python 3 with `venv`, or the installer fails.
    pub fn with(requirements: Requirements) -> Result<Self> {
        let cache = Locate::from_environment().cache.ok_or("there is no cache folder: set MARGAY_CACHE or HOME")?;
        let folder = cache.join("python").join(requirements.name);
        fs::create_dir_all(&folder)?;
        // The operating system gives the lock back when its holder dies.
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let environment = folder.join("venv");
        let interpreter = environment.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let (ready, wanted) = (folder.join("ready"), requirements.packages.join("\n"));
        if fs::read_to_string(&ready).is_ok_and(|installed| installed == wanted) && interpreter.is_file() {
            return Ok(Self { interpreter });
        }
        for stale in [&environment, &ready] {
            if stale.is_dir() { fs::remove_dir_all(stale)? } else { fs::remove_file(stale).or_else(ignore_missing)? }
        }
        say(&format!("making a Python environment in {}", environment.display()))?;
        let host = host_interpreter()?;
        succeed(Command::new(host).args(["-m", "venv"]).arg(&environment))?;
        say(&format!("installing {}", requirements.packages.join(", ")))?;
        let install =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"];
        // Nothing that is not named comes along, unless a list relies on its packages' own needs.
        let alone = if requirements.name == ONNX.name { &["--no-deps"][..] } else { &[] };
        succeed(Command::new(&interpreter).args(install).args(alone).args(requirements.packages))?;
        fs::write(&ready, wanted)?;
        Ok(Self { interpreter })
    }

    /// Runs a script and returns what it prints.
    ///
    /// # Errors
    /// When it ends with an error: the text has what it said.
    pub fn run(&self, script: &Path, arguments: &[&Path]) -> Result<String> {
        let output = succeed(self.command(script).args(arguments))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A script, to be started.
    #[must_use]
    pub fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(script).env("PYTHONUTF8", "1");
        command
    }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The first of the usual names that is a Python 3.
pub(crate) fn host_interpreter() -> Result<&'static str> {
    let works = |name: &&str| {
        Command::new(name).args(["-c", "import sys, venv; sys.exit(sys.version_info < (3, 10))"]).output()
    };
    let found =
        ["python3", "python", "py"].into_iter().find(|name| works(name).is_ok_and(|output| output.status.success()));
    Ok(found.ok_or("there is no Python 3.10 or newer with `venv` here")?)
}

pub(crate) fn succeed(command: &mut Command) -> Result<Output> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}): {said}", output.status).into());
    }
    Ok(output)
}

/// A line for whoever waits: a first run downloads for a while.
///
/// # Errors
/// When nobody takes it.
pub fn say(line: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{line}")
}
