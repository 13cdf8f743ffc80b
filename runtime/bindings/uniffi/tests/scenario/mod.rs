//! What the programs in other languages are given: bundles, servers that each do one thing, and the generated bindings.
#![expect(unreachable_pub, reason = "a module of test programs")]
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

#[path = "../../../tests/toy.rs"]
pub mod toy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use margay::testing::{FaultyServer, Reply};
use tokio::runtime::Runtime;

pub const UNIFFI_BINDGEN: &str = "uniffi-bindgen==0.31.0";

/// Bundles and servers, for as long as a program runs.
pub struct Scenario {
    bundle: tempfile::TempDir,
    pub expected: String,
    pub servers: BTreeMap<&'static str, FaultyServer>,
    pub scratch: tempfile::TempDir,
    _runtime: Runtime,
}

impl Scenario {
    pub fn new() -> Self {
        let (bundle, expected) = toy::bundle();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stream = Reply::streams(&["book ", "a", " flight"]);
        let head = stream.bytes().windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let first = head + stream.bytes()[head..].windows(4).position(|bytes| bytes == b"\n\n\r\n").unwrap() + 4;
        let always = [
            ("streams", stream.clone()),
            ("is-cut", stream.cut_after(first)),
            ("fails", Reply::status("500 Internal Server Error")),
            ("is-silent", Reply::stall()),
            ("says-what-was-redacted", Reply::says("[REDACTED_1]")),
            ("is-configured", Reply::says("as the file says")),
        ];
        let mut servers = BTreeMap::new();
        for (name, reply) in always {
            let server = runtime.block_on(FaultyServer::start([]));
            server.reply_always(reply);
            servers.insert(name, server);
        }
        let says = Reply::says("hello [NAME_1], [EMAIL_1]");
        let renewing = FaultyServer::start([Reply::status("401 Unauthorized"), says]);
        servers.insert("refuses-then-says", runtime.block_on(renewing));
        let scratch = tempfile::tempdir().unwrap();
        let authorities: Vec<u8> = servers.values().flat_map(FaultyServer::authority).collect();
        std::fs::write(scratch.path().join("authorities.pem"), authorities).unwrap();
        let configuration = toy::configuration(&servers["is-configured"].endpoint(), "authorities.pem");
        std::fs::write(scratch.path().join("margay.toml"), configuration).unwrap();
        Self { bundle, expected, servers, scratch, _runtime: runtime }
    }

    /// Runs a program that knows where everything is.
    pub fn run(&self, command: &mut Command) -> Output {
        let servers = self.servers.iter().map(|(name, server)| format!("{name} {}\n", server.endpoint()));
        command
            .env("MARGAY_BUNDLE", self.bundle.path())
            .env("MARGAY_PLAIN_BUNDLE", toy::fixture())
            .env("MARGAY_AUTHORITIES", self.scratch.path().join("authorities.pem"))
            .env("MARGAY_CONFIGURATION", self.scratch.path().join("margay.toml"))
            .env("MARGAY_SERVERS", servers.collect::<String>())
            .env("MARGAY_EXPECTED", &self.expected)
            .env("LC_ALL", "C.UTF-8")
            .env("ORT_DYLIB_PATH", toy::library());
        succeed(command)
    }

    /// What the server that renews was asked: nothing personal, and under two tokens.
    pub fn check_what_left(&self) {
        let asked = self.servers["refuses-then-says"].asked();
        let bodies: Vec<String> = asked.iter().map(|asked| String::from_utf8(asked.body.clone()).unwrap()).collect();
        assert_eq!(bodies.len(), 2);
        assert!(bodies.iter().all(|body| body.contains("I am [NAME_1], [EMAIL_1]")), "{bodies:?}");
        assert_eq!(asked[0].header("authorization"), Some("bearer first-token"));
        assert_eq!(asked[1].header("authorization"), Some("bearer second-token"));
    }

    /// What an example program says; it believes the authorities that the system believes, which `SSL_CERT_FILE` names.
    pub fn example(&self, command: &mut Command) -> String {
        let arguments = [self.servers["streams"].endpoint(), "large".into(), toy::QUESTION.into()];
        command.env("CLOUD_TOKEN", "secret").env("SSL_CERT_FILE", self.scratch.path().join("authorities.pem"));
        let output = self.run(command.arg(self.bundle.path()).args(arguments));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Where the library under test lies: beside the test programs.
pub fn library() -> PathBuf {
    let name = format!("{}margay_uniffi{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().parent().unwrap().join(name)
}

/// `runtime/bindings`.
pub fn bindings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A folder of the test's own in Margay's cache folder.
pub fn cache(name: &str) -> PathBuf {
    let cache = margay::device::library::Locate::from_environment().cache.unwrap().join("bindings").join(name);
    std::fs::create_dir_all(&cache).unwrap();
    cache
}

/// A virtual environment of the machine's Python with these packages; made anew if others are in it.
pub fn environment(name: &str, packages: &[&str]) -> PathBuf {
    let folder = cache(name);
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (python, ready) = (folder.join("venv/bin/python"), folder.join("ready"));
    if std::fs::read_to_string(&ready).is_ok_and(|installed| installed == packages.join("\n")) {
        return python;
    }
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")));
    if !packages.is_empty() {
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
        succeed(Command::new(&python).args(install).args(packages));
    }
    std::fs::write(ready, packages.join("\n")).unwrap();
    python
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// Writes the bindings of one language into a folder, with the generator of UniFFI's own version.
pub fn generate(language: &str, into: &Path) {
    let generator = environment("uniffi-bindgen", &[UNIFFI_BINDGEN]).with_file_name("uniffi-bindgen");
    let mut command = Command::new(generator);
    command.args(["generate", "--no-format", "--language", language, "--library"]).arg(library());
    // It asks Cargo where `uniffi.toml` is.
    succeed(command.arg("--out-dir").arg(into).current_dir(env!("CARGO_MANIFEST_DIR")));
}
