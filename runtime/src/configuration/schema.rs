//! The tables and keys of `margay.toml`, in its order. What a key means is said in `margay.example.toml`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use crate::Money;
use crate::cascade::OnCloudFailure;
use crate::cloud::{Dialect, Endpoint, Proxy, SpkiPin};
use crate::privacy::Patterns;
use crate::stores::Period;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schema {
    pub(super) version: Spanned<u32>,
    pub(super) device: Option<DeviceSection>,
    #[serde(default)]
    pub(super) cascade: CascadeSection,
    pub(super) cloud: Spanned<CloudSection>,
    #[serde(default)]
    pub(super) privacy: PrivacySection,
    pub(super) budget: Option<BudgetSection>,
    pub(super) outbox: Option<OutboxSection>,
    pub(super) cache: Option<CacheSection>,
    pub(super) connectivity: Option<ConnectivitySection>,
    pub(super) telemetry: Option<TelemetrySection>,
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceSection {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// Threads for the small model.
    pub threads: Option<usize>,
}

/// `[cascade]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CascadeSection {
    /// What becomes of a query without the cloud.
    #[serde(deserialize_with = "on_cloud_failure")]
    pub on_cloud_failure: OnCloudFailure,
    /// When a query that brings no deadline of its own must be over.
    #[serde(deserialize_with = "optional_duration")]
    pub deadline: Option<Duration>,
    /// When the large model is left alone.
    pub breaker: BreakerSection,
    /// The deferral rate of the calibration, against which drift is noticed.
    #[serde(deserialize_with = "rate")]
    pub expected_deferral_rate: Option<f64>,
}

impl Default for CascadeSection {
    fn default() -> Self {
        Self {
            on_cloud_failure: OnCloudFailure::default(),
            deadline: Some(Duration::from_secs(60)),
            breaker: BreakerSection::default(),
            expected_deferral_rate: None,
        }
    }
}

/// `cascade.breaker`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BreakerSection {
    /// Failed queries in a row.
    pub failures: NonZeroU32,
    /// How long the large model is then left alone.
    #[serde(deserialize_with = "duration")]
    pub pause: Duration,
}

impl Default for BreakerSection {
    fn default() -> Self {
        Self { failures: NonZeroU32::MIN.saturating_add(4), pause: Duration::from_secs(30) }
    }
}

/// `[cloud]`: the first server, and what holds for all of them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CloudSection {
    /// The server that is asked first.
    pub server: ServerSection,
    /// Servers that are asked when those before them fail.
    #[serde(default)]
    pub fallback: Vec<ServerSection>,
    /// Whether the first fallback is asked when the first server is slow.
    pub hedge: Option<HedgeSection>,
}

impl CloudSection {
    pub(super) fn first(&self) -> &ServerSection {
        &self.server
    }
}

/// `[cloud.server]` and `[[cloud.fallback]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerSection {
    /// Whose API it speaks.
    #[serde(default)]
    pub api: Api,
    /// Its base address.
    #[serde(deserialize_with = "parsed")]
    pub endpoint: Endpoint,
    /// The model's name there.
    pub model: String,
    /// Where the token comes from.
    pub token: Option<Spanned<TokenSection>>,
    /// Whether a key that never changes will do.
    #[serde(default)]
    pub allow_static_key: bool,
    /// Whose certificates are believed.
    #[serde(default)]
    pub roots: RootsSection,
    /// Which public keys are believed, on top of that.
    #[serde(default, deserialize_with = "pins")]
    pub pins: Vec<SpkiPin>,
    /// The certificate that is shown to the server.
    pub identity: Option<IdentitySection>,
    /// The way out.
    pub proxy: Option<ProxySection>,
    /// Longest wait for a connection.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// Longest wait for one exchange.
    #[serde(default = "two_minutes", deserialize_with = "duration")]
    pub attempt_timeout: Duration,
    /// How failed exchanges are repeated.
    #[serde(default)]
    pub retry: RetrySection,
}

/// `api`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Api {
    /// OpenAI's chat completions.
    #[default]
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's Gemini.
    Gemini,
}

impl From<Api> for Dialect {
    fn from(api: Api) -> Self {
        match api {
            Api::OpenAi => Self::OpenAi,
            Api::Anthropic => Self::Anthropic,
            Api::Gemini => Self::Gemini,
        }
    }
}

/// `token`: one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum TokenSection {
    /// A file that somebody else keeps fresh; read for every exchange.
    File(PathBuf),
    /// A program that prints one; run for every exchange, with `MARGAY_TOKEN_WANTED` set to `current` or `renewed`.
    Command(Vec<String>),
    /// A variable of this process. It never changes, so `allow_static_key` has to say that this is meant.
    Environment(String),
}

/// `roots`: `"bundled"`, `"platform"` or `{ pem = "file" }`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RootsSection {
    /// Mozilla's list.
    #[default]
    Bundled,
    /// The operating system's.
    Platform,
    /// Only those in this file.
    Pem(PathBuf),
}

/// `identity`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentitySection {
    /// PEM file with the certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// `proxy`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxySection {
    /// `http://host:port`.
    #[serde(deserialize_with = "parsed")]
    pub url: Proxy,
    /// Who we are to it.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
}

/// `retry`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RetrySection {
    /// Exchanges at most.
    pub attempts: u32,
    /// Upper bound of the first wait.
    #[serde(deserialize_with = "duration")]
    pub base: Duration,
    /// Upper bound of every wait.
    #[serde(deserialize_with = "duration")]
    pub cap: Duration,
    /// Repetitions for each question, in the long run.
    pub ratio: f64,
}

impl Default for RetrySection {
    fn default() -> Self {
        let crate::cloud::Retry { attempts, base, cap } = crate::cloud::Retry::default();
        Self { attempts, base, cap, ratio: 0.2 }
    }
}

/// `cloud.hedge`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgeSection {
    /// Which percentile of the first server's times is waited for.
    #[serde(default = "most", deserialize_with = "share")]
    pub percentile: f64,
    /// What is waited for before there are times to read it off.
    #[serde(deserialize_with = "duration")]
    pub initial: Duration,
}

/// `[privacy]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PrivacySection {
    /// Whether the built-in forms of personal data are taken out.
    pub redact: bool,
    /// What else is, as a regular expression by label.
    #[serde(deserialize_with = "patterns")]
    pub patterns: BTreeMap<String, String>,
    /// File that records what left.
    pub audit: Option<PathBuf>,
}

impl Default for PrivacySection {
    fn default() -> Self {
        Self { redact: true, patterns: BTreeMap::new(), audit: None }
    }
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BudgetSection {
    /// File with the account.
    pub file: PathBuf,
    /// What a million tokens read cost.
    #[serde(default, deserialize_with = "money")]
    pub input_price: Money,
    /// What a million tokens written cost.
    #[serde(default, deserialize_with = "money")]
    pub output_price: Money,
    /// All of these hold.
    #[serde(default)]
    pub limit: Vec<LimitSection>,
}

/// `[[budget.limit]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitSection {
    /// What it is for.
    #[serde(deserialize_with = "period")]
    pub per: Period,
    /// Only for requests of this class.
    pub class: Option<String>,
    /// At most so much.
    #[serde(default, deserialize_with = "optional_money")]
    pub money: Option<Money>,
    /// At most so many.
    pub tokens: Option<u64>,
}

/// `[outbox]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutboxSection {
    /// File with the queue.
    pub file: PathBuf,
    /// How long a prompt waits.
    #[serde(default = "a_week", deserialize_with = "duration")]
    pub time_to_live: Duration,
    /// Prompts and results at most.
    #[serde(default = "a_thousand")]
    pub max_entries: u64,
    /// Bytes of both at most.
    #[serde(default = "sixteen_mebibytes")]
    pub max_bytes: u64,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CacheSection {
    /// How long an answer is kept.
    #[serde(deserialize_with = "duration")]
    pub time_to_live: Duration,
    /// Memory for answers, in bytes.
    pub max_bytes: usize,
}

/// `[connectivity]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ConnectivitySection {
    /// How long a failed attempt is believed.
    #[serde(deserialize_with = "duration")]
    pub pause: Duration,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TelemetrySection {
    /// Base address of an OpenTelemetry collector that takes OTLP over HTTP, without `/v1/traces`.
    #[serde(deserialize_with = "address")]
    pub endpoint: String,
    /// PEM file with the authorities that its certificate is held against.
    pub certificate: Option<PathBuf>,
    /// Time between two reports of metrics.
    #[serde(default = "a_minute", deserialize_with = "duration")]
    pub interval: Duration,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

fn two_minutes() -> Duration {
    Duration::from_secs(120)
}

fn a_week() -> Duration {
    Duration::from_secs(7 * 24 * 60 * 60)
}

fn a_thousand() -> u64 {
    1_000
}

fn sixteen_mebibytes() -> u64 {
    16 << 20
}

fn most() -> f64 {
    0.95
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = crate::Error>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

/// An address that may be in clear text, unlike an [`Endpoint`], because no prompt goes there.
fn address<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let url = Url::parse(&text).map_err(|error| de::Error::custom(format!("no address: {error}")))?;
    match (url.scheme(), url.username(), url.password()) {
        ("http" | "https", "", None) => Ok(text),
        ("http" | "https", ..) => Err(de::Error::custom("an address in a file holds no credentials")),
        _ => Err(de::Error::custom("the address starts with neither http:// nor https://")),
    }
}

fn pins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SpkiPin>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("`{text}` is no time like \"30s\" or \"7days\": {error}")))
}

fn optional_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "never" {
        return Ok(None);
    }
    let time = humantime::parse_duration(&text);
    time.map(Some)
        .map_err(|error| de::Error::custom(format!("`{text}` is neither \"never\" nor a time like \"30s\": {error}")))
}

fn on_cloud_failure<'de, D: Deserializer<'de>>(from: D) -> Result<OnCloudFailure, D::Error> {
    match String::deserialize(from)?.as_str() {
        "local" => Ok(OnCloudFailure::FallBackToLocal),
        "abstain" => Ok(OnCloudFailure::Abstain),
        "fail" => Ok(OnCloudFailure::Fail),
        other => Err(de::Error::custom(format!("`{other}` is none of \"local\", \"abstain\", \"fail\""))),
    }
}

fn period<'de, D: Deserializer<'de>>(from: D) -> Result<Period, D::Error> {
    match String::deserialize(from)?.as_str() {
        "day" => Ok(Period::Day),
        "month" => Ok(Period::Month),
        other => Err(de::Error::custom(format!("`{other}` is neither \"day\" nor \"month\""))),
    }
}

fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(from)?;
    let within = (0.0..=1.0).contains(&share);
    if within { Ok(share) } else { Err(de::Error::custom(format!("{share} is not in 0 to 1"))) }
}

fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    share(from).map(Some)
}

/// Money is text, `"2.50"`: a binary fraction is no amount.
fn money<'de, D: Deserializer<'de>>(from: D) -> Result<Money, D::Error> {
    let text = String::deserialize(from)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let micros = Some(whole).filter(|whole| digits(whole)).and_then(|whole| whole.parse::<u64>().ok());
    let micros = micros.and_then(|whole| whole.checked_mul(1_000_000));
    let fraction = Some(fraction).filter(|fraction| digits(fraction) && fraction.len() <= 6);
    let fraction = fraction.and_then(|fraction| format!("{fraction:0<6}").parse::<u64>().ok());
    let sum = micros.zip(fraction).and_then(|(whole, fraction)| whole.checked_add(fraction));
    let wrong = || de::Error::custom(format!("`{text}` is no amount like \"2.50\", with six decimals at most"));
    sum.map(Money::from_micros).ok_or_else(wrong)
}

fn optional_money<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Money>, D::Error> {
    money(from).map(Some)
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let patterns = BTreeMap::<String, String>::deserialize(from)?;
    patterns.iter().try_fold(Patterns::custom(), |all, (label, pattern)| all.pattern(label, pattern)).map_err(
        |error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            de::Error::custom(format!("{error}{cause}"))
        },
    )?;
    Ok(patterns)
}
