//! Serial ports: one of this machine, or one that somebody offers over TCP (a terminal server, an emulator).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// Where the line to the device begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `tcp:HOST:PORT`: somebody listens there and passes bytes on.
    Tcp(String),
    /// The file of a serial port, `/dev/ttyUSB0`.
    File(PathBuf),
}

/// An open line, whose two directions are used by two threads.
pub(super) enum Port {
    Tcp(TcpStream),
    File(File),
}

impl Address {
    /// Opens the line. A serial port is set to `baud`, eight bits, no parity, bytes as they are.
    pub(super) fn open(&self, baud: u32) -> io::Result<Port> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?; // a frame is small, and the other side waits for it
                Ok(Port::Tcp(stream))
            }
            Self::File(path) => open_terminal(path, baud).map(Port::File),
        }
    }
}

impl Port {
    /// The same line for another thread.
    pub(super) fn share(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::File(file) => Self::File(file.try_clone()?),
        })
    }

    /// Waits for bytes and reads some. `None` if the other end has hung up; nothing read if it is only silent.
    pub(super) fn read<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let length = match self {
            Self::Tcp(stream) => match stream.read(buffer)? {
                0 => return Ok(None),
                length => length,
            },
            Self::File(file) => file.read(buffer)?,
        };
        Ok(Some(&buffer[..length]))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::File(file) => file.write_all(bytes),
        }
    }

    /// Ends a read that waits in another thread; that of a serial port ends by itself soon.
    pub(super) fn hang_up(&self) {
        if let Self::Tcp(stream) = self {
            // It may have been hung up already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("tcp:") {
            Some(address)
                if address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                Ok(Self::Tcp(address.to_owned()))
            }
            Some(_) => Err(format!("`{text}` is not tcp:HOST:PORT")),
            None if text.is_empty() => Err("a serial port has a name".into()),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Opens a serial port. The system's own `stty` sets it up: bytes as they are, no echo, and a read that ends after two tenths of
/// a second of silence, so that the thread sees when it is no longer wanted.
fn open_terminal(path: &Path, baud: u32) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let settings = ["raw", "-echo", "min", "0", "time", "2"];
    let stty = Command::new("stty").arg(baud.to_string()).args(settings).stdin(file.try_clone()?).output();
    let stty = stty.map_err(|error| io::Error::other(format!("stty, which sets the speed: {error}")))?;
    if stty.status.success() {
        return Ok(file);
    }
    Err(io::Error::other(String::from_utf8_lossy(&stty.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = |text: &str| text.parse::<Address>();
        assert_eq!(read("tcp:127.0.0.1:7000"), Ok(Address::Tcp("127.0.0.1:7000".into())));
        assert_eq!(read("tcp:[::1]:7000").unwrap().to_string(), "tcp:[::1]:7000");
        assert_eq!(read("/dev/ttyUSB0"), Ok(Address::File("/dev/ttyUSB0".into())));
        for malformed in ["tcp:", "tcp:localhost", "tcp::7000", "tcp:localhost:seventy", ""] {
            assert!(read(malformed).is_err(), "{malformed}");
        }
    }
}
