//! An instant query of Prometheus' HTTP API, and the one value in its answer.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Fault,
    http::{Http, HttpError},
};
use crate::scaling::policy::PrometheusSpec;

/// The most of a server's words that is repeated.
const WORDS: usize = 200;

/// Asks a server.
pub(super) async fn ask(http: &Http, spec: &PrometheusSpec) -> Result<f64, Fault> {
    let answer = http.get(&url(spec), &spec.server, "application/json").await;
    let (status, body) = answer.map_err(|error| unanswered(&error))?;
    value(status, &body, spec)
}

fn url(spec: &PrometheusSpec) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("query", &spec.query).finish();
    format!("{}/api/v1/query?{query}", spec.server.trim_end_matches('/'))
}

fn unanswered(error: &HttpError) -> Fault {
    let (part, remedy) = match error {
        HttpError::Address { .. } => ("server", "write it like http://prometheus.monitoring:9090"),
        HttpError::Silent { .. } | HttpError::Late { .. } => {
            ("server", "look whether it runs and can be reached from the pod that decides")
        }
        HttpError::Large { .. } => ("query", "aggregate it to one value, as sum(...)"),
    };
    Fault { reason: "SourceUnreachable", part, problem: error.to_string(), remedy }
}

/// An answer of the API: <https://prometheus.io/docs/prometheus/latest/querying/api/>.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Body {
    Success { data: Data },
    Error { error: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

#[derive(Deserialize)]
struct Series {
    /// The time and the value; none for a native histogram.
    value: Option<(f64, String)>,
}

/// The one value of an answer.
fn value(status: StatusCode, body: &[u8], spec: &PrometheusSpec) -> Result<f64, Fault> {
    let query = &spec.query;
    let data = match serde_json::from_slice(body) {
        Ok(Body::Success { data }) => data,
        Ok(Body::Error { error }) => {
            let error: String = error.chars().take(WORDS).collect();
            let problem = format!("{query:?} is refused by {} ({error})", spec.server);
            return Err(Fault { reason: "QueryRefused", part: "query", problem, remedy: "correct the query" });
        }
        Err(_) => return Err(no_prometheus(status, spec)),
    };
    let not_one = |(problem, remedy): (String, &'static str)| Fault {
        reason: "NotOneValue",
        part: "query",
        problem: format!("{query:?} gives {problem}"),
        remedy,
    };
    let one = one(data).map_err(|_| no_prometheus(status, spec))?.map_err(not_one)?;
    match one.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(not_one((format!("{one}, which is no load"), "let it give a number; a division by 0 gives none"))),
    }
}

/// The one value as a text, or what there is instead and the remedy.
fn one(data: Data) -> serde_json::Result<Result<String, (String, &'static str)>> {
    let Data { result_type, result } = data;
    Ok(match result_type.as_str() {
        "scalar" => Ok(serde_json::from_value::<(f64, String)>(result)?.1),
        "vector" => match serde_json::from_value::<Vec<Series>>(result)?.as_slice() {
            [Series { value: Some((_, value)) }] => Ok(value.clone()),
            [Series { value: None }] => {
                Err(("a histogram".to_owned(), "make one value of it, as histogram_quantile(0.9, ...)"))
            }
            [] => Err((
                "no series".to_owned(),
                "look whether its metrics exist; `or vector(0)` behind it stands for what is not there",
            )),
            more => Err((format!("{} series", more.len()), "aggregate them to one, as sum(...) or avg(...)")),
        },
        "matrix" => Err(("a range".to_owned(), "make one value of it, as rate(...)")),
        other => Err((format!("a {other}"), "let it give a number")),
    })
}

fn no_prometheus(status: StatusCode, spec: &PrometheusSpec) -> Fault {
    let problem = format!("{} answers {status} and not as Prometheus does", spec.server);
    let remedy = "write the address below which Prometheus has /api/v1/query, as http://prometheus.monitoring:9090";
    Fault { reason: "SourceUnreachable", part: "server", problem, remedy }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(query: &str) -> PrometheusSpec {
        PrometheusSpec { server: "http://prom:9090/".into(), query: query.into(), ..PrometheusSpec::default() }
    }

    #[test]
    fn a_query_survives_the_way_into_an_address() {
        assert_eq!(
            url(&spec(r#"a{b=~"c d&"} + 0"#)),
            "http://prom:9090/api/v1/query?query=a%7Bb%3D%7E%22c+d%26%22%7D+%2B+0"
        );
    }

    #[test]
    fn one_value_is_read_and_all_else_is_named() {
        let success =
            |kind: &str, result: Value| json!({"status": "success", "data": {"resultType": kind, "result": result}});
        let series = |value: &str| json!({"metric": {"pod": "a"}, "value": [1.5, value]});
        for (body, expected) in [
            (success("scalar", json!([1.5, "4"])), Ok(4.0)),
            (success("vector", json!([series("0.25")])), Ok(0.25)),
            (success("vector", json!([series("-1e3")])), Ok(-1000.0)),
            (success("vector", json!([])), Err(("NotOneValue", "query", "gives no series"))),
            (success("vector", json!([series("1"), series("2")])), Err(("NotOneValue", "query", "gives 2 series"))),
            (
                success("vector", json!([{"metric": {}, "histogram": [1.5, {}]}])),
                Err(("NotOneValue", "query", "histogram")),
            ),
            (success("vector", json!([series("NaN")])), Err(("NotOneValue", "query", "gives NaN, which is no load"))),
            (success("scalar", json!([1.5, "+Inf"])), Err(("NotOneValue", "query", "gives +Inf"))),
            (success("matrix", json!([])), Err(("NotOneValue", "query", "gives a range"))),
            (success("string", json!([1.5, "x"])), Err(("NotOneValue", "query", "gives a string"))),
            (
                json!({"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end"}),
                Err(("QueryRefused", "query", "\"q\" is refused by http://prom:9090/ (parse error: unexpected end)")),
            ),
            (json!({"status": "lost"}), Err(("SourceUnreachable", "server", "answers 404 Not Found"))),
            (json!("hello"), Err(("SourceUnreachable", "server", "not as Prometheus does"))),
        ] {
            let read = value(StatusCode::NOT_FOUND, body.to_string().as_bytes(), &spec("q"));
            match expected {
                Ok(expected) => assert_eq!(read, Ok(expected), "{body}"),
                Err((reason, part, text)) => {
                    let fault = read.expect_err("no value");
                    assert_eq!((fault.reason, fault.part), (reason, part), "{body}");
                    assert!(fault.problem.contains(text), "{fault}");
                }
            }
        }
        let long = json!({"status": "error", "error": "x".repeat(9000)}).to_string();
        assert!(value(StatusCode::BAD_REQUEST, long.as_bytes(), &spec("q")).unwrap_err().to_string().len() < 400);
    }
}
