//! What is fitted, and how it is told.

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: FitArgs,
}

fn said(csv: &str, line: &str) -> Result<String, Error> {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.csv");
    std::fs::write(&data, csv).unwrap();
    let line = format!("fit --data {} {line}", data.display());
    let args = Line::parse_from(line.split_whitespace()).args;
    let mut out = Vec::new();
    run(&args, &mut Screen::plain(&mut out))?;
    Ok(String::from_utf8(out).unwrap())
}

fn cpu() -> String {
    let row = |load: i32| format!("{load},{},7\n", 0.1 + 0.02 * f64::from(load) + 0.01 * f64::from(load % 2));
    "rps,cpuCores,flat\n".to_owned() + &(0..50).map(row).collect::<String>()
}

#[test]
fn load_to_resources() {
    let text = said(&cpu(), "--target cpuCores --features rps,flat --at 1.0").unwrap();
    let expected = "\
NAME        ESTIMATE      STD-ERROR     T
intercept   1.047059e-1   1.421137e-3   73.68
rps         2.001200e-2   4.997998e-5   400.40

cpuCores over 50 rows: R2 0.999701, residual standard deviation 0.0051, condition number 1.
flat is not used: it is constant.

For a policy:

forecast:
  perReplica: 44.737852";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn json_has_every_number() {
    let text = said(&cpu(), "--target cpuCores --features rps,flat -o json").unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["kind"], "Fit");
    assert_eq!(value["observations"], 50);
    assert_eq!(value["dropped"][0]["name"], "flat");
    assert_eq!(value["coefficients"][1]["name"], "rps");
    let slope = value["coefficients"][1]["estimate"].as_f64().unwrap();
    assert!((slope - 0.02).abs() < 1e-3, "{text}");
    assert!(value["coefficients"][1]["standardError"].as_f64().unwrap() < 1e-4);
    assert!(value["rSquared"].as_f64().unwrap() > 0.999);
    assert_eq!(value["ridge"], 0.0);
    assert_eq!(value["forecast"], Value::Null, "no features of a forecast");
}

/// A load that grows by one in every 15 s, in rows of one minute, with a name for the time.
fn ramp(time: impl Fn(u64) -> String) -> String {
    "time,load\n".to_owned()
        + &(0..120).map(|minute| format!("{},{}\n", time(minute), 50 + 4 * minute)).collect::<String>()
}

#[test]
fn a_forecast_is_trained_for_a_policy() {
    for time in [
        &(|minute: u64| format!("{}", 1_700_000_000 + 60 * minute)) as &dyn Fn(u64) -> String,
        &|minute: u64| format!("2023-11-16 {:02}:{:02}:00.25", 10 + minute / 60, minute % 60),
        &|minute: u64| format!("2023-11-16T{:02}:{:02}:00Z", 10 + minute / 60, minute % 60),
    ] {
        let csv = ramp(time);
        let text = said(&csv, "--target load --features mean:1m --horizon 2m -o json").unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let forecast = &value["forecast"];
        assert_eq!(forecast["features"], serde_json::json!(["lag:0s", "mean:1m"]));
        assert_eq!(forecast["horizon"], "2m");
        let weight = |name: &str| forecast["coefficients"][name].as_f64().unwrap();
        let foreseen = weight("intercept") + weight("lag:0s") * 400.0 + weight("mean:1m") * 398.5;
        assert!((foreseen - 408.0).abs() < 1.0, "{foreseen}: {text}");
        let text = said(&csv, "--target load --features mean:1m --horizon 2m").unwrap();
        assert!(text.contains("\nforecast:\n  features:\n"), "{text}");
    }
}

#[test]
fn what_cannot_be_fitted_is_named() {
    let unsorted = "time,load\n60,1\n30,2\n";
    for (csv, line, cause) in [
        (cpu().as_str(), "--target cpu --features rps", "has no column \"cpu\""),
        (
            &cpu(),
            "--target cpuCores --features rps,lag:1m",
            "\"rps\" is a column and \"lag:1m\" a feature of a forecast",
        ),
        (&cpu(), "--target cpuCores --features load", "\"load\" is neither a column nor a feature of a forecast"),
        (&cpu(), "--target cpuCores --features rps --at 0.01", "--at 0.01: the fit does not reach it"),
        ("a,b\n1,2\n2,3\n", "--target b --features a", "2 observations are too few for 2 coefficients; at least 3"),
        (
            unsorted,
            "--target load --features lag:1m",
            "line 3, column \"time\": \"30\" is not later than the line before it",
        ),
        ("time,load\nnoon,1\n", "--target load --features lag:1m", "line 2, column \"time\": \"noon\" is not a time"),
    ] {
        let error = said(csv, line).unwrap_err();
        assert!(error.to_string().contains(cause), "{error}");
        assert!(!error.remedy().is_empty());
    }
}

#[test]
fn a_plot_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fit.svg");
    said(&cpu(), &format!("--target cpuCores --features rps --plot {}", file.display())).unwrap();
    assert!(std::fs::read_to_string(file).unwrap().contains("<circle"));
    let error = said(&cpu(), "--target cpuCores --features rps --plot /nowhere/fit.svg").unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/fit.svg: "), "{error}");
}
