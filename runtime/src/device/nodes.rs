//! How many nodes of a graph each execution provider runs, read off ONNX Runtime's own profile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ort::session::Session;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Longest profile, in bytes: a canary on a graph of ten thousand nodes takes some 30 MB.
const MAX_PROFILE_BYTES: u64 = 256 << 20;

/// One event of a profile in the Trace Event Format.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    provider: String,
}

/// A beginning for the names of profiles that no other session uses.
pub(crate) fn profile_prefix() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("margay-profile-{}-{number}", std::process::id()))
}

/// Ends the session's profile, removes the file and counts the nodes that ran, by provider.
pub(crate) fn count(session: &mut Session) -> Result<BTreeMap<String, usize>> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Inference, "ONNX Runtime's profile cannot be read").with_source(error)
    };
    let path = PathBuf::from(session.end_profiling().map_err(|error| failed(error.into()))?);
    let counted = read(&path);
    // A file left in the folder for temporary files harms nobody.
    let _left = fs::remove_file(&path);
    counted.map_err(failed)
}

fn read(path: &Path) -> Result<BTreeMap<String, usize>, Box<dyn std::error::Error + Send + Sync>> {
    let length = path.metadata()?.len();
    if length > MAX_PROFILE_BYTES {
        return Err(format!("{} has {length} bytes, more than {MAX_PROFILE_BYTES}", path.display()).into());
    }
    Ok(by_provider(&serde_json::from_slice::<Vec<Event>>(&fs::read(path)?)?))
}

fn by_provider(events: &[Event]) -> BTreeMap<String, usize> {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.cat == "Node" && !event.args.provider.is_empty()) {
        // The same node comes at every run, and as `_kernel_time` among other things.
        if let Some(node) = event.name.strip_suffix("_kernel_time") {
            names.entry(&event.args.provider).or_default().insert(node);
        }
    }
    names.into_iter().map(|(provider, nodes)| (provider.to_owned(), nodes.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_once_however_often_it_runs() {
        let event = |cat: &str, name: &str, provider: &str| Event {
            cat: cat.into(),
            name: name.into(),
            args: Args { provider: provider.into() },
        };
        let events = [
            event("Session", "model_loading", ""),
            event("Node", "a_kernel_time", "CPUExecutionProvider"),
            event("Node", "a_kernel_time", "CPUExecutionProvider"),
            event("Node", "a_fence_before", "CPUExecutionProvider"),
            event("Node", "b_kernel_time", "CPUExecutionProvider"),
            event("Node", "c_kernel_time", "OpenVINOExecutionProvider"),
        ];
        let counted = by_provider(&events);
        assert_eq!(counted["CPUExecutionProvider"], 2);
        assert_eq!(counted["OpenVINOExecutionProvider"], 1);
    }
}
