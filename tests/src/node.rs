//! A folder of Node packages at pinned versions, installed once in Margay's cache folder by the machine's own npm.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use margay::device::library::Locate;

use crate::python::{Requirements, Result, say, succeed};

/// OpenAI's client for Node.
pub const OPENAI: Requirements = Requirements { name: "openai", packages: &["openai@7.57.0"] };

/// Packages that are ready to be used.
#[derive(Debug, Clone)]
pub struct Node {
    packages: PathBuf,
}

impl Node {
    /// These packages, installed now if they are not there; `None` on a machine without Node.js 20 or newer and npm.
    ///
    /// # Errors
    /// When there is no cache folder, or the installer fails.
    pub fn with(requirements: Requirements) -> Result<Option<Self>> {
        let new_enough = "process.exit(Number(process.versions.node.split('.')[0]) < 20 ? 1 : 0)";
        let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !works(Command::new("node").args(["-e", new_enough])) || !works(Command::new("npm").arg("--version")) {
            return Ok(None);
        }
        let cache = Locate::from_environment().cache.ok_or("there is no cache folder: set MARGAY_CACHE or HOME")?;
        let folder = cache.join("node").join(requirements.name);
        fs::create_dir_all(&folder)?;
        // The operating system gives the lock back when its holder dies.
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let (ready, wanted) = (folder.join("ready"), requirements.packages.join("\n"));
        let packages = folder.join("node_modules");
        if fs::read_to_string(&ready).is_ok_and(|installed| installed == wanted) && packages.is_dir() {
            return Ok(Some(Self { packages }));
        }
        say(&format!("installing {} in {}", requirements.packages.join(", "), folder.display()))?;
        let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefix"];
        succeed(Command::new("npm").args(install).arg(&folder).args(requirements.packages))?;
        fs::write(&ready, wanted)?;
        Ok(Some(Self { packages }))
    }

    /// Runs a script and returns what it prints.
    ///
    /// # Errors
    /// When it ends with an error: the text has what it said.
    pub fn run(&self, script: &Path, arguments: &[&str]) -> Result<String> {
        let output = succeed(Command::new("node").arg(script).args(arguments).env("NODE_PATH", &self.packages))?;
        Ok(String::from_utf8(output.stdout)?)
    }
}
