//! What is counted, in Prometheus' form: what the runtime counts (see `margay::telemetry`), and what only a server knows.

use std::time::{Duration, Instant};

use margay::telemetry::{SCORE, SECONDS};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_opentelemetry::OpenTelemetryRecorder;
use metrics_util::layers::FanoutBuilder;

use crate::error::{Error, Result};

/// Requests by path and status.
const REQUESTS: &str = "margay_http_requests_total";
/// Time until the head of the answer, by path.
const REQUEST_SECONDS: &str = "margay_http_request_seconds";
/// Questions that are being answered.
const IN_FLIGHT: &str = "margay_http_in_flight";

/// From a thousandth of a second to a minute.
const TIMES: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Scores are mostly mean or quantile log-probabilities, in nats, or probabilities.
const SCORES: [f64; 14] = [-8.0, -4.0, -2.0, -1.0, -0.7, -0.5, -0.35, -0.25, -0.15, -0.1, -0.05, -0.01, 0.5, 1.0];

/// Every so often what was measured is taken into the sums: nothing else does while nobody looks.
const UPKEEP: Duration = Duration::from_secs(5);

/// # Errors
/// [`Error::Usage`] if the buckets make no sense, which they do.
pub(super) fn recorder() -> Result<PrometheusRecorder> {
    let wrong = |error: metrics_exporter_prometheus::BuildError| Error::Usage(format!("no metrics: {error}"));
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(SECONDS.into()), &TIMES)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(REQUEST_SECONDS.into()), &TIMES))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SCORE.into()), &SCORES))
        .map_err(wrong)?;
    Ok(builder.build_recorder())
}

/// Has these recorders told every number from here on. Whoever has installed one before has the numbers.
pub(crate) fn install(prometheus: Option<PrometheusRecorder>, collector: Option<OpenTelemetryRecorder>) {
    let collector = collector.map(|mut collector| {
        collector.set_histogram_bounds_mut([SECONDS, REQUEST_SECONDS].into_iter(), &TIMES);
        collector.set_histogram_bounds_mut([SCORE].into_iter(), &SCORES);
        collector
    });
    let installed = match (prometheus, collector) {
        (None, None) => false,
        (Some(prometheus), None) => metrics::set_global_recorder(prometheus).is_ok(),
        (None, Some(collector)) => metrics::set_global_recorder(collector).is_ok(),
        (Some(prometheus), Some(collector)) => {
            let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(collector);
            metrics::set_global_recorder(both.build()).is_ok()
        }
    };
    if installed {
        describe();
    }
}

/// Says what the numbers mean, to the recorder that is installed.
fn describe() {
    use margay::telemetry::{
        BREAKER, CLOUD_TOKENS, COST, DEFERRAL_RATE, DEFERRALS, DRIFT, ERRORS, OUTBOX, QUERIES, SAVED_TOKENS,
    };
    describe_counter!(QUERIES, "Answers, by who gave them");
    describe_counter!(ERRORS, "Queries that ended in an error, by its kind");
    describe_counter!(DEFERRALS, "Queries that the device was unsure of, by the reason");
    describe_histogram!(SCORE, "Scores of the device's answers");
    describe_histogram!(SECONDS, Unit::Seconds, "Where the time of a query went, by stage");
    describe_counter!(CLOUD_TOKENS, "Tokens that the cloud read and wrote");
    describe_counter!(SAVED_TOKENS, "Tokens that stopping early has spared, at most");
    describe_counter!(COST, "What the cloud has cost, in millionths of the currency");
    describe_gauge!(BREAKER, "The breaker before the cloud: 0 closed, 1 half open, 2 open");
    describe_gauge!(OUTBOX, "Prompts that wait in the outbox");
    describe_gauge!(DEFERRAL_RATE, "Share of the last 1000 queries that the device was unsure of");
    describe_gauge!(DRIFT, "Whether that is far from the rate of the calibration");
    describe_counter!(REQUESTS, "HTTP requests, by path and status");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "Time until the head of the answer, by path");
    describe_gauge!(IN_FLIGHT, "Questions that are being answered");
}

/// Keeps the numbers from piling up, for as long as it is polled.
pub(super) async fn upkeep(handle: PrometheusHandle) {
    let mut often = tokio::time::interval(UPKEEP);
    loop {
        often.tick().await;
        handle.run_upkeep();
    }
}

/// One request was answered, or an answer begun.
pub(super) fn answered(path: &'static str, status: u16, started: Instant) {
    counter!(REQUESTS, "path" => path, "status" => status.to_string()).increment(1);
    histogram!(REQUEST_SECONDS, "path" => path).record(started.elapsed().as_secs_f64());
}

/// Questions that are being answered now.
pub(super) fn in_flight(questions: usize) {
    gauge!(IN_FLIGHT).set(questions as f64);
}
