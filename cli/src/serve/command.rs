//! `margay serve`: from a bundle or a `margay.toml` to a server that runs until it is asked to stop.

use std::env::VarError;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use margay::configuration::Configuration;
use margay::device::MAX_BATCH;
use margay::{Bundle, Engine};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use super::{Model, Options, Server, metrics};
use crate::config;
use crate::console::Console;
use crate::device::DeviceArgs;
use crate::error::{Error, Result};
use crate::exit::INTERRUPTED;
use crate::interrupt::interrupted;
use crate::library;
use crate::logging::{self, LogArgs};

/// Longest bearer token, in bytes: it has to fit into the head of a request.
const MAX_TOKEN_BYTES: u64 = 8 << 10;

/// Where the bearer token may stand in the environment.
const TOKEN_VARIABLE: &str = "MARGAY_SERVE_TOKEN";

/// What `margay serve` is told.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Folder or archive of the small model; with --config, in the place of the one it names
    #[arg(long, value_name = "BUNDLE", required_unless_present = "config")]
    pub bundle: Option<PathBuf>,
    /// A margay.toml with the large model and what stands before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8484")]
    pub listen: SocketAddr,
    /// The model's name for clients [default: the bundle's, else the large model's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// File with the bearer token that clients must send [default: the variable MARGAY_SERVE_TOKEN, else none]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Let everybody in, from other machines too
    #[arg(long)]
    pub without_token: bool,
    /// PEM file with the server's certificate and those between it and its authority: speaks TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Requests answered at once, those that wait for the device included; one more is told to come back
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_concurrent: u16,
    /// Answers that the small model writes side by side: they wait less for each other, and each comes more slowly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH as i64))]
    pub batch: u16,
    /// Longest answer to a question that names no limit, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Longest time for one answer [default: the configuration's deadline, or 120s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub patience: Option<Duration>,
    /// Longest wait for answers under way when the server is asked to stop
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Print where it listens as one JSON object
    #[arg(long)]
    pub json: bool,
    /// What is logged
    #[command(flatten)]
    pub log: LogArgs,
    /// What the small model may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Serves until Ctrl-C or a polite kill; what is under way is finished then, a second one ends it.
///
/// # Errors
/// [`Error`] naming the bundle, file or address at fault.
pub fn serve(args: &ServeArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let token = token(args)?;
    if !args.listen.ip().is_loopback() && token.is_none() && !args.without_token {
        let why = format!(
            "{} can be reached from other machines: give a token (--token-file or {TOKEN_VARIABLE}), or say --without-token",
            args.listen
        );
        return Err(Error::Usage(why));
    }
    let tls = tls(args)?;
    let recorder = metrics::recorder()?;
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { action: "start the server's threads".into(), source })?;
    let configuration = args.config.as_deref().map(config::read).transpose()?;
    let logging = logging::start(&args.log, configuration.as_ref())?;
    metrics::install(Some(recorder), logging.recorder());
    let (model, name) = {
        let _inside = runtime.enter();
        model(args, configuration.as_ref(), console)?
    };
    let mut options = Options::new(args.name.clone().unwrap_or(name));
    (options.token, options.tls, options.address) = (token, tls, args.listen);
    (options.most_at_once, options.max_tokens) = (usize::from(args.max_concurrent), args.max_tokens as usize);
    let configured = configuration.as_ref().and_then(|configuration| configuration.cascade.deadline);
    options.patience = args.patience.or(configured).unwrap_or(options.patience);
    options.metrics = Some(handle.clone());
    let name = options.model.clone();
    runtime.block_on(async {
        let mut server = Server::start(model, options)?;
        let (endpoint, status) = (server.endpoint(), server.url());
        console.result(
            &json!({"model": name, "endpoint": endpoint, "status": status}),
            [format!("serving {name} at {endpoint}; status page {status}")],
        )?;
        tokio::select! {
            ended = server.ended() => return Ok(ended?),
            () = metrics::upkeep(handle) => {}
            asked = interrupted() => if !asked { std::future::pending::<()>().await },
        }
        console.aside().line("finishing what is under way; Ctrl-C again ends it at once")?;
        tokio::select! {
            ended = server.shutdown(args.grace) => Ok(ended?),
            _ = interrupted() => std::process::exit(INTERRUPTED.into()),
        }
    })
}

/// The models that are to be served, and what they are called unless told otherwise.
fn model(args: &ServeArgs, configuration: Option<&Configuration>, console: &mut Console) -> Result<(Model, String)> {
    let device =
        configuration.and_then(|configuration| configuration.device.as_ref().map(|device| (configuration, device)));
    let configured = device.map(|(configuration, device)| configuration.path(&device.bundle));
    let path = args.bundle.clone().or(configured);
    let mut aside = console.aside();
    let small =
        path.map(|path| small(&path, args, device.and_then(|(_, device)| device.threads), &mut aside)).transpose()?;
    let Some(configuration) = configuration else {
        let (bundle, engine) = small.ok_or_else(|| Error::Usage("give --bundle or --config".into()))?;
        return Ok((Model::device(engine, bundle.policy()), bundle.manifest().name.clone()));
    };
    let mut configuration = configuration.clone();
    if configuration.outbox.take().is_some() {
        // Clients of a server wait for their answers; nobody would come back for one that is queued.
        aside.line("the outbox is left aside: a server's clients wait for their answers")?;
    }
    let assembly = configuration.assemble()?;
    let (cloud, budget) = (Arc::clone(&assembly.cloud), assembly.budget.clone());
    let Some((bundle, engine)) = small else {
        return Ok((Model::cloud(cloud).budget(budget), configuration.cloud.server.model.clone()));
    };
    let policy = bundle.policy().ok_or_else(|| {
        let path = bundle.root().display();
        Error::Usage(format!(
            "{path} has no threshold, so nothing says when to ask the large model; find one with `margay calibrate --bundle {path}`, or serve it alone, without --config"
        ))
    })?;
    let cascade = assembly.cascade(Arc::clone(&engine), policy.clone())?;
    Ok((Model::cascade(cascade, engine, policy, cloud).budget(budget), bundle.manifest().name.clone()))
}

fn small(path: &Path, args: &ServeArgs, threads: Option<usize>, aside: &mut Console) -> Result<(Bundle, Arc<Engine>)> {
    let mut options = args.device.options();
    options.threads = options.threads.or(threads);
    options.queue = usize::from(args.max_concurrent);
    options.batch = usize::from(args.batch);
    let (bundle, engine) = library::open(path, options, aside)?;
    Ok((bundle, Arc::new(engine)))
}

fn token(args: &ServeArgs) -> Result<Option<String>> {
    let (text, whence) = match &args.token_file {
        Some(file) => {
            let mut text = String::new();
            let read = File::open(file).and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text));
            read.map_err(|source| Error::io("read", file, source))?;
            (text, file.display().to_string())
        }
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(text) => (text, TOKEN_VARIABLE.to_owned()),
            Err(VarError::NotPresent) => return Ok(None),
            Err(VarError::NotUnicode(_)) => (String::new(), TOKEN_VARIABLE.to_owned()),
        },
    };
    let token = text.trim();
    if token.is_empty() || text.len() as u64 > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why =
            format!("{whence} holds no token: up to {MAX_TOKEN_BYTES} bytes of printable ASCII without blanks are one");
        return Err(Error::Usage(why));
    }
    Ok(Some(token.to_owned()))
}

fn tls(args: &ServeArgs) -> Result<Option<Arc<ServerConfig>>> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let wrong = |file: &Path, why: &dyn std::fmt::Display| Error::Usage(format!("{}: {why}", file.display()));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|all| all.collect::<Result<Vec<_>, _>>())
        .map_err(|error| wrong(certificate, &error))?;
    let key_of = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_of))
        .map_err(|error| wrong(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
