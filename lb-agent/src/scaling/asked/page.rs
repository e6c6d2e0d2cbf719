//! What replicas show of themselves, in the text format of Prometheus or OpenMetrics.
//!
//! Only the lines of the metrics that are asked for are read, whatever else a page has. They are read here because the crates for it do not
//! do: `prometheus-parse` passes over names with a colon, such as vLLM's, and `openmetrics-parser` has a licence that ours does not go with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hyper::StatusCode;

use super::{
    Answer, Asker, Fault, Question, SPOKEN,
    http::{Http, HttpError},
};
use crate::scaling::{observation::Reading, policy::PodMetricSpec};

/// Both forms; the classic one, which every exporter has, is liked better.
const ACCEPT: &str = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.8, */*;q=0.1";

/// The page that has a metric of the replica at this address.
pub(super) fn question(address: IpAddr, spec: &PodMetricSpec) -> Question {
    // It was checked to be a port.
    Question::Page(SocketAddr::new(address, spec.port as u16), spec.path.clone())
}

/// Asks a replica.
pub(super) async fn ask(
    http: &Http,
    address: SocketAddr,
    path: &str,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, f64>, Fault> {
    let url = format!("http://{address}{path}");
    let (status, body) = http.get(&url, &url, ACCEPT).await.map_err(|error| unanswered(&error))?;
    if status != StatusCode::OK {
        let problem = format!("{url} answers {status}");
        let remedy = "write the path under which the pods show their metrics";
        return Err(Fault { reason: "SourceUnreachable", part: "path", problem, remedy });
    }
    Ok(sums(&String::from_utf8_lossy(&body), names))
}

fn unanswered(error: &HttpError) -> Fault {
    let (part, remedy) = match error {
        HttpError::Silent { .. } | HttpError::Late { .. } => {
            ("port", "write the port on which the pods show their metrics, and let who decides reach it")
        }
        HttpError::Address { .. } => ("path", "write it like /metrics"),
        HttpError::Large { .. } => ("path", "let the pods show fewer series there"),
    };
    Fault { reason: "SourceUnreachable", part, problem: error.to_string(), remedy }
}

/// The sum over the series of each of these metrics that is there. What is no number makes its sum none.
fn sums(text: &str, names: &BTreeSet<String>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().map(str::trim_start) {
        let name = line.split(|end: char| end == '{' || end.is_ascii_whitespace()).next().unwrap_or_default();
        if names.contains(name) {
            *sums.entry(name.to_owned()).or_insert(0.0) += value(&line[name.len()..]).unwrap_or(f64::NAN);
        }
    }
    sums
}

/// The value in what follows a sample's name; a time or an exemplar may follow it.
fn value(rest: &str) -> Option<f64> {
    let rest = rest.trim_start();
    let rest = if rest.starts_with('{') { behind_labels(rest)? } else { rest };
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// What follows the labels. Their values are quoted, and may have anything within.
fn behind_labels(text: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.find(|next| {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => return next == '}' && !quoted,
        }
        false
    })?;
    text.get(end + 1..)
}

/// The mean over the replicas that have said so lately, and what is wrong with the first that has not.
pub(super) fn mean(
    asker: &Asker,
    spec: &PodMetricSpec,
    ready: &BTreeSet<IpAddr>,
    now: Duration,
) -> (Option<Reading>, Option<Fault>) {
    let (mut values, mut oldest, mut fault) = (Vec::new(), now, None);
    for address in ready {
        let Some(known) = asker.known(&question(*address, spec)) else { continue };
        let fresh = known.answer.filter(|(_, at)| now.saturating_sub(*at) <= SPOKEN);
        match fresh.and_then(|(answer, at)| Some((read(answer, spec)?, at))) {
            Some((Ok(value), at)) => {
                values.push(value);
                oldest = oldest.min(at);
            }
            Some((Err(problem), _)) => fault = fault.or_else(|| Some(not_shown(*address, spec, &problem))),
            None => fault = fault.or_else(|| known.fault.cloned()),
        }
    }
    let missing = (ready.len() - values.len()) as u32;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    ((!values.is_empty()).then_some(Reading { value: mean, at: oldest, missing }), fault)
}

/// The metric on a page, or why it cannot be used; nothing for what is no page.
fn read(answer: &Answer, spec: &PodMetricSpec) -> Option<Result<f64, String>> {
    let Answer::Page(sums) = answer else { return None };
    Some(match sums.get(&spec.name) {
        None => Err("is not shown".to_owned()),
        Some(value) if value.is_finite() => Ok(*value),
        Some(value) => Err(format!("is {value}, which is no load,")),
    })
}

fn not_shown(address: IpAddr, spec: &PodMetricSpec, problem: &str) -> Fault {
    let problem =
        format!("{} {problem} by http://{}{}", spec.name, SocketAddr::new(address, spec.port as u16), spec.path);
    let remedy = "write a metric's name as that page has it, without labels";
    Fault { reason: "MetricMissing", part: "name", problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As vLLM 0.6 shows itself, with what the formats allow besides.
    const PAGE: &str = r#"# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="meta-llama/Llama-3.1-8B-Instruct"} 7.0
vllm:num_requests_running{model_name="a \"strange\" } name\\"} 2 1712345678000
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.0
vllm:gpu_cache_usage_perc{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.25
vllm:num_requests_running_total{engine="0"} 1e9
plain 3.5e-1
  spaced	{a="b",} 4
exemplar_bucket{le="0.5"} 6 # {trace_id="}"} 0.4 1.5
broken{a="b 1
text{a="b"} five
missing_value
infinite +Inf
# EOF
"#;

    #[test]
    fn the_series_of_a_metric_are_added_up() {
        let names = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:gpu_cache_usage_perc",
            "plain",
            "spaced",
            "exemplar_bucket",
            "infinite",
            "not_there",
        ];
        let sums = sums(PAGE, &names.map(str::to_owned).into());
        let expected = [
            ("exemplar_bucket", 6.0),
            ("infinite", f64::INFINITY),
            ("plain", 0.35),
            ("spaced", 4.0),
            ("vllm:gpu_cache_usage_perc", 0.25),
            ("vllm:num_requests_running", 9.0),
            ("vllm:num_requests_waiting", 0.0),
        ];
        assert_eq!(sums, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn what_is_no_number_is_none() {
        let names = ["broken", "text", "missing_value"].map(str::to_owned);
        let sums = sums(PAGE, &names.clone().into());
        assert!(names.iter().all(|name| sums[name].is_nan()), "{sums:?}");
    }
}
