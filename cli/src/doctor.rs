//! `margay doctor`: whether what Margay needs is there, and what to do if it is not. Nothing is sent anywhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use margay::configuration::{Configuration, RootsSection, TokenSection};
use margay::device::library::Locate;
use margay::device::{Available, Provider};
use margay::{Bundle, DeviceOptions, Engine};
use serde::Serialize;
use serde_json::json;

use crate::config;
use crate::console::Console;
use crate::error::{Error, Result};

/// Less than this and a bundle may not fit, in bytes.
const LITTLE_SPACE: u64 = 1 << 30;

/// A clock is wrong if it stands before this program was built by more than a time zone, or in another century.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 60 * 60);
const YEARS_AHEAD: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);

/// What `margay doctor` is asked.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Look at this bundle too, and run its canary
    #[arg(long, value_name = "BUNDLE")]
    pub bundle: Option<PathBuf>,
    /// Look at this margay.toml too, and at what it names
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was found of one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The thing.
    pub what: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Good,
    /// It will do, for now or for some.
    Doubtful,
    /// Something will not work.
    Bad,
}

/// Looks at everything, and says so.
///
/// # Errors
/// [`Error::Unhealthy`] if something will not work.
pub fn doctor(args: &DoctorArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let mut findings = vec![library()];
    let runs = findings[0].health == Health::Good;
    if runs {
        findings.push(providers());
    }
    findings.push(platform_roots());
    let configuration = args.config.as_deref().map(|file| (file, config::read(file)));
    if let Some((file, configuration)) = &configuration {
        findings.extend(configured(file, configuration));
    }
    let configuration = configuration.and_then(|(_, configuration)| configuration.ok());
    let named = configuration.as_ref().and_then(|all| Some(all.path(&all.device.as_ref()?.bundle)));
    if let Some(path) = args.bundle.clone().or(named) {
        findings.push(bundle(&path, runs, configuration.is_some()));
    }
    findings.push(space());
    findings.push(clock());
    let bad = findings.iter().filter(|finding| finding.health == Health::Bad).count();
    let colours = console.colours();
    console.result(
        &json!({"healthy": bad == 0, "findings": findings}),
        findings.iter().map(|finding| line(finding, colours)),
    )?;
    if bad == 0 { Ok(()) } else { Err(Error::Unhealthy(bad)) }
}

fn line(finding: &Finding, colours: bool) -> String {
    let (word, colour) = match finding.health {
        Health::Good => ("good", 32),
        Health::Doubtful => ("hm", 33),
        Health::Bad => ("bad", 31),
    };
    let word = format!("{word:<4}");
    let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
    let advice = finding.advice.as_ref().map(|advice| format!("\n{:20}{advice}", "")).unwrap_or_default();
    format!("{word}  {:<13} {}{advice}", finding.what, finding.found)
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, health: Health::Good, found: found.into(), advice: None }
    }

    fn doubtful(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what, health: Health::Doubtful, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(what: &'static str, error: &dyn std::error::Error, advice: impl Into<String>) -> Self {
        let mut found = error.to_string();
        if let Some(cause) = error.source().filter(|cause| !found.contains(&cause.to_string())) {
            found = format!("{found}: {cause}");
        }
        Self { what, health: Health::Bad, found, advice: Some(advice.into()) }
    }
}

fn library() -> Finding {
    let advice = "run any command that needs it and it is fetched, or set ORT_DYLIB_PATH to a library of 1.24 or newer";
    match Locate::from_environment().find().and_then(|library| library.initialise().map(|()| library)) {
        Ok(library) => Finding::good("ONNX Runtime", library.path().display().to_string()),
        Err(error) => Finding::bad("ONNX Runtime", &error, advice),
    }
}

fn providers() -> Finding {
    let there = |provider: &Provider| provider.available().is_ok_and(|available| available == Available::InLibrary);
    let found: Vec<String> = Provider::ALL.into_iter().filter(there).map(|provider| provider.to_string()).collect();
    Finding::good("providers", found.join(", "))
}

fn platform_roots() -> Finding {
    let found = rustls_native_certs::load_native_certs();
    match found.certs.len() {
        0 => Finding::doubtful(
            "TLS roots",
            "the operating system trusts nobody",
            "install its certificates (ca-certificates), or keep `roots = \"bundled\"`, which is what holds unless said",
        ),
        count => Finding::good("TLS roots", format!("{count} of the operating system; Mozilla's are built in")),
    }
}

fn configured(file: &Path, configuration: &Result<Configuration>) -> Vec<Finding> {
    let configuration = match configuration {
        Ok(configuration) => configuration,
        Err(error) => {
            return vec![Finding::bad("configuration", error, "`margay config example` prints one that is right")];
        }
    };
    let mut findings = vec![Finding::good("configuration", format!("{} is well-formed", file.display()))];
    let cloud = &configuration.cloud;
    for server in std::iter::once(&cloud.server).chain(&cloud.fallback) {
        let mut files: Vec<&PathBuf> = Vec::new();
        match server.token.as_ref().map(|token| token.get_ref()) {
            Some(TokenSection::File(path)) => files.push(path),
            Some(TokenSection::Environment(name)) if std::env::var_os(name).is_none() => {
                let error = Error::Usage(format!("the variable {name} is not set"));
                findings.push(Finding::bad(
                    "token",
                    &error,
                    format!("set it, or say where {} has its token", server.model),
                ));
            }
            _ => {}
        }
        if let RootsSection::Pem(path) = &server.roots {
            files.push(path);
        }
        files.extend(server.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]));
        for named in files {
            let path = configuration.path(named);
            if let Err(source) = std::fs::File::open(&path) {
                let error = Error::io("read", &path, source);
                findings.push(Finding::bad("configuration", &error, format!("{} names it", file.display())));
            }
        }
    }
    findings
}

fn bundle(path: &Path, runs: bool, cascade: bool) -> Finding {
    let opened = match Bundle::open(path) {
        Ok(opened) => opened,
        Err(error) => return Finding::bad("bundle", &error, "get it again, or make it with `margay export`"),
    };
    let name = &opened.manifest().name;
    let mut found = format!("{name}: every byte is as its manifest says");
    if runs {
        match Engine::load(&opened, DeviceOptions::default()) {
            Ok(engine) => {
                let report = engine.report();
                found = format!("{found}; its canary answers on {} within {:?}", report.provider, report.warm_up);
            }
            Err(error) => {
                return Finding::bad(
                    "bundle",
                    &error,
                    "this machine does not run it as it should be run; see `margay devices`",
                );
            }
        }
    }
    match opened.policy() {
        None if cascade => {
            let advice = "`margay calibrate` finds a threshold; until then nothing says when to ask the large model";
            Finding::doubtful("bundle", format!("{found}; it has no threshold"), advice)
        }
        None => Finding::good("bundle", format!("{found}; it has no threshold")),
        Some(policy) => Finding::good("bundle", format!("{found}; calibrated, {}", policy.policy.rule())),
    }
}

/// Room in the cache folder, where libraries and unpacked bundles go.
fn space() -> Finding {
    let Some(cache) = Locate::from_environment().cache else {
        return Finding::doubtful("disk", "there is no cache folder", "set MARGAY_CACHE, or HOME");
    };
    // The folder itself may not have been made yet.
    let there = cache.ancestors().find(|folder| folder.exists()).unwrap_or(&cache);
    match fs4::available_space(there) {
        Ok(free) if free < LITTLE_SPACE => {
            let found = format!("{} MB free for {}", free / 1_000_000, cache.display());
            Finding::doubtful("disk", found, "make room, or set MARGAY_CACHE to another disk")
        }
        Ok(free) => Finding::good("disk", format!("{} GB free for {}", free / 1_000_000_000, cache.display())),
        Err(source) => Finding::bad("disk", &Error::io("look at", there, source), "set MARGAY_CACHE to another folder"),
    }
}

/// A clock that is far off has every certificate refused, and budgets count days that are none.
fn clock() -> Finding {
    let built = std::env::current_exe().and_then(|path| path.metadata()).and_then(|metadata| metadata.modified());
    let built = built.unwrap_or(SystemTime::UNIX_EPOCH);
    let now = SystemTime::now();
    let shown = humantime::format_rfc3339_seconds(now).to_string();
    let early = now + CLOCK_SLACK < built;
    if early || now > built + YEARS_AHEAD {
        let why = Error::Usage(format!("it says {shown}, and this program was built otherwise"));
        return Finding::bad("clock", &why, "set it: certificates and budgets go by it");
    }
    Finding::good("clock", format!("{shown}, not checked against another"))
}
