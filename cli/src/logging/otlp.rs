//! An OpenTelemetry collector: spans and metrics go there by OTLP, protocol buffers over HTTP.
//!
//! `[telemetry]` of a `margay.toml` says where it is, and the variables of OpenTelemetry's specification go before that. Headers,
//! which may hold a key, come from variables alone.

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use margay::configuration::Configuration;
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::{Handle, Runtime};
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, filter};

use crate::error::{Error, Result};

/// Longest wait for the collector, as OTLP exporters have it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The only form that is spoken here.
const PROTOCOL: &str = "http/protobuf";

/// Scope of spans and metrics.
const SCOPE: &str = "margay";

/// Where spans and metrics go until it is dropped; what is left of them goes then.
pub(super) struct Collector {
    spans: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// Carries requests for the exporters' threads; it must outlive what is sent at the end.
    _runtime: Runtime,
}

impl Collector {
    /// The collector that the environment or `configuration` names; `None` if neither does.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Io`] naming the variable, key or file.
    pub(super) fn find(configuration: Option<&Configuration>) -> Result<Option<Self>> {
        let section = configuration.and_then(|all| Some((all, all.telemetry.as_ref()?)));
        let endpoint = section.map(|(_, telemetry)| telemetry.endpoint.as_str());
        let (spans, metrics) = (address("traces", endpoint)?, address("metrics", endpoint)?);
        if (spans.is_none() && metrics.is_none()) || variable("OTEL_SDK_DISABLED")?.as_deref() == Some("true") {
            return Ok(None);
        }
        let certificate = match variable("OTEL_EXPORTER_OTLP_CERTIFICATE")? {
            Some(file) => Some(PathBuf::from(file)),
            None => section.and_then(|(all, telemetry)| Some(all.path(telemetry.certificate.as_ref()?))),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { action: "start the collector's thread".into(), source })?;
        let client = Client { inner: client(certificate.as_deref())?, runtime: runtime.handle().clone() };
        let resource = resource()?;
        let wrong = |error: opentelemetry_otlp::ExporterBuildError| Error::Usage(format!("no collector: {error}"));
        let spans = match spans {
            None => None,
            Some(url) => {
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_http_client(client.clone())
                    .with_protocol(Protocol::HttpBinary)
                    .with_endpoint(url)
                    .build()
                    .map_err(wrong)?;
                let provider = SdkTracerProvider::builder().with_resource(resource.clone());
                Some(provider.with_batch_exporter(exporter).build())
            }
        };
        let metrics = match metrics {
            None => None,
            Some(url) => {
                let exporter = MetricExporter::builder()
                    .with_http()
                    .with_http_client(client)
                    .with_protocol(Protocol::HttpBinary)
                    .with_endpoint(url)
                    .build()
                    .map_err(wrong)?;
                let mut reader = PeriodicReader::builder(exporter);
                if let (Some((_, telemetry)), None) = (section, variable("OTEL_METRIC_EXPORT_INTERVAL")?) {
                    reader = reader.with_interval(telemetry.interval);
                }
                Some(SdkMeterProvider::builder().with_resource(resource).with_reader(reader.build()).build())
            }
        };
        Ok(Some(Self { spans, metrics, _runtime: runtime }))
    }

    /// What takes Margay's own spans there: others' could hold anything.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.spans.as_ref()?.tracer(SCOPE);
        let ours: Targets = filter::Targets::new()
            .with_target("margay", LevelFilter::INFO)
            .with_target("margay_cli", LevelFilter::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        Some(layer.with_filter(ours))
    }

    /// What takes metrics there.
    pub(super) fn recorder(&self) -> Option<OpenTelemetryRecorder> {
        let meter = self.metrics.as_ref()?.meter(SCOPE);
        Some(OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(meter)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // A collector that is away is no reason to fail now; the SDK logs what it could not send.
        let _unsent = self.spans.as_ref().map(|spans| spans.shutdown_with_timeout(PATIENCE));
        let _unsent = self.metrics.as_ref().map(|metrics| metrics.shutdown_with_timeout(PATIENCE));
    }
}

/// Our client for threads that know no tokio, which exporters' are.
#[derive(Debug, Clone)]
struct Client {
    inner: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.inner.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// rustls with the ring provider, as everywhere; authorities of the operating system, where a company keeps its own.
fn client(certificate: Option<&Path>) -> Result<reqwest::Client> {
    let mut roots = RootCertStore::empty();
    match certificate {
        Some(file) => {
            let wrong = |why: &dyn std::fmt::Display| Error::Usage(format!("{}: {why}", file.display()));
            let authorities = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for authority in authorities.map_err(|error| wrong(&error))? {
                roots.add(authority).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Usage(format!("no TLS for the collector: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(|error| Error::Usage(format!("no client for the collector: {error}")))
}

/// Who speaks: margay in this version, unless `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
fn resource() -> Result<Resource> {
    let name = variable("OTEL_SERVICE_NAME")?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let built = Resource::builder_empty()
        .with_attributes([KeyValue::new("service.name", SCOPE), version])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    Ok(match name {
        Some(name) => built.with_attribute(KeyValue::new("service.name", name)).build(),
        None => built.build(),
    })
}

/// Where a signal (`traces`, `metrics`) goes: its own variable as it is, else the common one, else the file's address with
/// the signal's path behind; `None` if nobody names any, or it is turned off.
fn address(signal: &str, configured: Option<&str>) -> Result<Option<String>> {
    let upper = signal.to_uppercase();
    let exporter = format!("OTEL_{upper}_EXPORTER");
    match variable(&exporter)?.as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(Error::Usage(format!("{exporter}: `{other}` is neither otlp nor none"))),
    }
    for name in [format!("OTEL_EXPORTER_OTLP_{upper}_PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".into()] {
        match variable(&name)?.as_deref() {
            None => {}
            Some(PROTOCOL) => break,
            Some(other) => return Err(Error::Usage(format!("{name}: `{other}` is not spoken here, only {PROTOCOL}"))),
        }
    }
    let (own, common) = (format!("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT"), "OTEL_EXPORTER_OTLP_ENDPOINT");
    if let Some(url) = variable(&own)? {
        return checked(&own, url).map(Some);
    }
    let base = match variable(common)? {
        Some(url) => Some(checked(common, url)?),
        None => configured.map(str::to_owned),
    };
    Ok(base.map(|base| format!("{}/v1/{signal}", base.trim_end_matches('/'))))
}

/// An address that a variable holds. It is not shown: it could hold a key.
fn checked(name: &str, text: String) -> Result<String> {
    let url = Url::parse(&text).map_err(|error| Error::Usage(format!("{name}: no address: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(text),
        _ => Err(Error::Usage(format!("{name}: starts with neither http:// nor https://"))),
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Error::Usage(format!("{name}: is not Unicode"))),
    }
}
