use std::{io::Write, path::Path};

use super::*;
use crate::backtest::workload::{SECOND, from_seconds, seconds};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

const PLAIN: Replay = Replay {
    from: None,
    to: None,
    scale: 1.0,
    service: ServiceTime { constant: None, prefill: 0.25e-3, decode: 25e-3 },
    seed: 1,
};

#[test]
fn a_row_per_request_has_its_time_by_its_tokens() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:17:05.9799600,0,40\n";
    let trace = read(file(text).path()).unwrap();
    assert_eq!(trace.epoch.map(f64::floor), Some(1_700_158_623.0));
    let workload = workload(&trace, &PLAIN).unwrap();
    let times: Vec<_> =
        workload.requests.iter().map(|request| (seconds(request.at), seconds(request.service))).collect();
    for ((at, service), expected) in times.iter().zip([(0.0, 1.452), (0.052, 0.995), (2.0, 1.0)]) {
        assert!((at - expected.0).abs() < 1e-6 && (service - expected.1).abs() < 1e-6, "{times:?}");
    }
    let constant = Replay { service: ServiceTime { constant: Some(3.0), ..PLAIN.service }, ..PLAIN };
    let workload = super::workload(&trace, &constant).unwrap();
    assert!(workload.requests.iter().all(|request| request.service == 3 * SECOND));
}

#[test]
fn rates_are_interpolated_and_become_poisson_arrivals() {
    let text = "timestamp_s,requests_per_second\n0,10\n1000,10\n2000,30\n3000,0\n";
    let trace = read(file(text).path()).unwrap();
    let workload = workload(&trace, &PLAIN).unwrap();
    let count = |from: f64, to: f64| {
        let range = from_seconds(from)..from_seconds(to);
        workload.requests.iter().filter(|request| range.contains(&request.at)).count() as f64
    };
    for (from, to, expected) in
        [(0.0, 1000.0, 1e4), (1000.0, 1500.0, 7500.0), (1500.0, 2000.0, 12500.0), (2500.0, 3000.0, 3750.0)]
    {
        let found = count(from, to);
        assert!((found - expected).abs() < 4.0 * expected.sqrt(), "{from} to {to}: {found}, not {expected}");
    }
    // Counts of a second in the even first part are Poisson: as much variance as mean.
    let counts: Vec<f64> = (0..1000).map(|at| count(f64::from(at), f64::from(at) + 1.0)).collect();
    let mean = counts.iter().sum::<f64>() / 1000.0;
    let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 999.0;
    assert!((variance / mean - 1.0).abs() < 0.2, "{variance} / {mean}");
    assert_eq!(workload, super::workload(&trace, &PLAIN).unwrap(), "the same seed");
    assert_ne!(workload, super::workload(&trace, &Replay { seed: 2, ..PLAIN }).unwrap(), "another one");
}

#[test]
fn counts_are_of_the_interval() {
    for unit in ["count", "requests"] {
        let trace = read(file(&format!("time,{unit}\n0,600\n60,600\n120,1200\n")).path()).unwrap();
        let Load::Rates(rates) = trace.load else { panic!("rates") };
        let rates: Vec<_> = rates.iter().map(|rate| (rate.at, rate.rate)).collect();
        assert_eq!(rates, [(30.0, 10.0), (90.0, 10.0), (150.0, 20.0)]);
    }
}

#[test]
fn a_part_is_cut_out_and_scaled() {
    let text = "time,x_per_second\n2024-01-01T00:00:00Z,100\n2024-01-01T00:10:00Z,100\n2024-01-01T00:20:00Z,100\n";
    let trace = read(file(text).path()).unwrap();
    let cases =
        [("5m", "10m", 0.5, 15_000.0), ("300", "2024-01-01T00:10:00Z", 2.0, 60_000.0), ("0", "1h", 0.1, 12_000.0)];
    for (from, to, scale, expected) in cases {
        let replay = Replay { from: Some(place(from).unwrap()), to: Some(place(to).unwrap()), scale, ..PLAIN };
        let found = workload(&trace, &replay).unwrap().requests.len() as f64;
        assert!((found - expected).abs() < 4.0 * f64::sqrt(expected), "{from} to {to}: {found}, not {expected}");
    }
    let dated = Replay { from: Some(place("2024-01-01T00:10:00Z").unwrap()), ..PLAIN };
    assert_eq!(workload(&trace, &dated).unwrap().epoch, Some(1_704_067_800));
    let undated = read(file("time,count\n0,1\n1,1\n").path()).unwrap();
    assert!(workload(&undated, &dated).unwrap_err().to_string().contains("no dates"));
}

#[test]
fn requests_are_thinned_out_and_copied() {
    let rows: String = (0..1000).map(|at| format!("{at},100,10\n")).collect();
    let mut trace = read(file(&format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).path()).unwrap();
    trace.epoch = None;
    for (scale, expected) in [(0.25, 250.0), (1.0, 1000.0), (2.5, 2500.0)] {
        let requests = workload(&trace, &Replay { scale, ..PLAIN }).unwrap().requests;
        assert!((requests.len() as f64 - expected).abs() < 60.0, "{scale}: {}", requests.len());
        assert!(requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}

#[test]
fn gzipped_traces_are_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
    for (name, requests) in
        [("AzureLLMInferenceTrace_code.csv.gz", 8819), ("AzureLLMInferenceTrace_conv.csv.gz", 19366)]
    {
        let trace = read(&folder.join(name)).unwrap();
        assert_eq!(workload(&trace, &PLAIN).unwrap().requests.len(), requests, "{name}");
    }
    let Load::Rates(rates) = read(&folder.join("servegen-m-large-rps.csv.gz")).unwrap().load else { panic!("rates") };
    assert_eq!((rates.len(), rates[0].rate), (2016, 212.78));
}

#[test]
fn bad_traces_name_line_column_and_value() {
    let cases = [
        ("", "it has 0 rows"),
        ("time,count\n0,1\n", "it has 1 rows"),
        ("time,load\n0,1\n1,2\n", "line 1: the second column is \"load\""),
        ("time\n0\n1\n", "line 1: the second column is \"\""),
        ("time,count\n0,1\n60,-3\n", "line 3, column count: -3 is negative"),
        ("time,count\n0,1\n60,x\n", "line 3, column count: \"x\" is not a number"),
        ("time,count\n0,1\n60,nan\n", "line 3, column count: \"nan\" is not a number"),
        ("time,count\n0,1\n60,\n120,1\n", "line 3, column count: it is empty: a gap"),
        (
            "time,count\n0,1\n60,1\n120,1\n300,1\n",
            "line 5, column time: a gap: 180 s since the row before, usual are 60 s",
        ),
        ("time,count\n0,1\n60,1\n30,1\n", "line 4, column time: \"30\" comes after a later time"),
        ("time,count\n0,1\n60,1\n60,1\n", "line 4, column time: \"60\" is there twice"),
        ("time,count\n-1,1\n60,1\n", "line 2, column time: -1 is negative"),
        ("time,count\nnoon,1\n60,1\n", "line 2, column time: \"noon\" is not a time"),
        ("time,count\n2024-01-01T00:00:00Z,1\n60,1\n", "line 3, column time: \"60\" comes after a later time"),
        ("time,count\n0,1\n60,1,1\n", "line 3: it has 3 values, the header has 2"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n0,1,1\n1,-5,1\n", "line 3, column ContextTokens: -5 is negative"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n5,1,1\n1,5,1\n",
            "line 3, column TIMESTAMP: \"1\" comes after a later time",
        ),
    ];
    for (text, expected) in cases {
        let file = file(text);
        let error = read(file.path()).unwrap_err();
        let shown = error.to_string();
        assert!(
            shown.starts_with(&file.path().display().to_string()) && shown.ends_with(expected),
            "{text:?}: {shown}"
        );
        assert!(!error.remedy().is_empty());
    }
    assert!(matches!(read(Path::new("/nowhere.csv")), Err(TraceError::File { .. })));
    let idle = read(file("time,count\n0,0\n60,0\n").path()).unwrap();
    assert!(workload(&idle, &PLAIN).unwrap_err().to_string().contains("there is no request"));
}

#[test]
fn places_are_seconds_durations_or_dates() {
    for (text, expected) in [
        ("90", Some(Place::After(90.0))),
        ("1h 30m", Some(Place::After(5400.0))),
        ("2024-01-01T00:00:00Z", Some(Place::At(1_704_067_200.0))),
        ("2024-01-01 01:00:00", Some(Place::At(1_704_070_800.0))),
        ("-5", None),
        ("later", None),
    ] {
        assert_eq!(place(text).ok(), expected, "{text}");
    }
}
