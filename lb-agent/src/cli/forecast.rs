//! A policy's forecast in words, from the agent's answer: short in `weir get policies -o wide`, whole in `weir explain policy`.

use serde_json::Value;

use super::agent::{brief, list, text};
use crate::scaling::forecast::engine::figure;

/// Whether it is in force, for how many replicas, and how it has stood the test; empty for a policy without a forecast.
pub fn in_short(policy: &Value) -> String {
    let forecast = &policy["forecast"];
    if !forecast.is_object() {
        return String::new();
    }
    let tested = &forecast["backtest"];
    match forecast["on"].as_bool() {
        Some(true) => format!(
            "{} at least, {} of {} within {}",
            brief(forecast, "replicas"),
            number(tested, "coverage"),
            brief(tested, "forecasts"),
            number(forecast, "quantile"),
        ),
        _ => text(forecast, "why").to_owned(),
    }
}

/// Every coefficient with its standard error, as far as there is one.
pub fn coefficients(policy: &Value) -> String {
    let term = |term: &Value| {
        let error = term["standardError"].as_f64().map(|error| format!("±{}", figure(error))).unwrap_or_default();
        format!("{}={}{error}", text(term, "name"), number(term, "estimate"))
    };
    list(&policy["forecast"], "coefficients").iter().map(term).collect::<Vec<_>>().join(" ")
}

/// All that is known of it; nothing for a policy without a forecast.
pub fn in_words(policy: &Value) -> Vec<String> {
    let forecast = &policy["forecast"];
    if !forecast.is_object() {
        return Vec::new();
    }
    let mut lines = vec![text(forecast, "why").to_owned()];
    // In force, the reason says so already.
    if forecast["on"] != true && forecast["expected"].is_number() {
        lines.push(foreseen(forecast));
    }
    lines.extend(tested(&forecast["backtest"]));
    lines.extend(fit("fit", &forecast["fit"]));
    lines.extend(fit("capacity", &forecast["capacity"]));
    let coefficients = list(forecast, "coefficients").iter();
    lines.extend(coefficients.map(|term| match term["standardError"].as_f64() {
        Some(error) => {
            format!("{} = {}, standard error {}", text(term, "name"), number(term, "estimate"), figure(error))
        }
        None => format!("{} = {}", text(term, "name"), number(term, "estimate")),
    }));
    let dropped = list(&forecast["fit"], "dropped").iter();
    lines.extend(dropped.map(|one| format!("{} is left out: {}", text(one, "name"), text(one, "why"))));
    lines
}

fn foreseen(forecast: &Value) -> String {
    let (ahead, expected) = (brief(forecast, "horizonSeconds"), number(forecast, "expected"));
    let bound = forecast["upper"]
        .as_f64()
        .map(|upper| format!(", at {} not above {}", number(forecast, "quantile"), figure(upper)));
    format!("in {ahead} s it would be {expected}{}", bound.unwrap_or_default())
}

fn tested(backtest: &Value) -> Option<String> {
    let forecasts = backtest["forecasts"].as_u64().filter(|forecasts| *forecasts > 0)?;
    Some(format!(
        "tested by {forecasts} forecasts: {} of what came was within, pinball loss {}, of the last value {}",
        number(backtest, "coverage"),
        number(backtest, "pinballLoss"),
        number(backtest, "lastValuePinballLoss"),
    ))
}

fn fit(name: &str, fit: &Value) -> Option<String> {
    fit.is_object().then(|| {
        let condition = fit["condition"].as_f64().map_or_else(|| "infinite".to_owned(), figure);
        format!(
            "{name}: {} rows, R² {}, residual deviation {}, condition number {condition}, ridge {}",
            brief(fit, "observations"),
            number(fit, "rSquared"),
            number(fit, "residualDeviation"),
            number(fit, "ridge"),
        )
    })
}

fn number(value: &Value, field: &str) -> String {
    value[field].as_f64().map_or_else(|| "none".to_owned(), figure)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scaling::forecast::{
        ForecastReport,
        engine::Backtest,
        ols::Dropped,
        status::{CoefficientReport, FitReport},
    };

    /// As the agent would say it, so that a field that is renamed there is missed here.
    fn policy(report: ForecastReport) -> Value {
        let coefficient = |name: &str, estimate, standard_error| CoefficientReport {
            name: name.to_owned(),
            estimate,
            standard_error,
        };
        json!({"forecast": ForecastReport {
            horizon_seconds: 300,
            quantile: 0.9,
            expected: Some(31.25),
            upper: Some(40.0),
            backtest: Backtest { forecasts: 500, coverage: 0.912, loss: 1.5, last_value_loss: 1.25 },
            coefficients: vec![
                coefficient("intercept", 1.5, Some(0.25)),
                coefficient("lag:1m", -0.125, None),
            ],
            fit: Some(FitReport {
                observations: 240,
                r_squared: 0.93,
                residual_deviation: 2.5,
                condition: Some(12.0),
                ridge: 0.0,
                dropped: vec![Dropped { name: "hourOfDay.sin".to_owned(), why: "it is early".to_owned() }],
            }),
            ..report
        }})
    }

    #[test]
    fn one_that_is_off_says_why() {
        let why = "off: no better than the last value".to_owned();
        let off = policy(ForecastReport { why: why.clone(), ..ForecastReport::default() });
        assert_eq!(in_short(&off), why);
        assert_eq!(coefficients(&off), "intercept=1.5±0.25 lag:1m=-0.125");
        assert_eq!(
            in_words(&off),
            [
                why.as_str(),
                "in 300 s it would be 31.25, at 0.9 not above 40",
                "tested by 500 forecasts: 0.912 of what came was within, pinball loss 1.5, of the last value 1.25",
                "fit: 240 rows, R² 0.93, residual deviation 2.5, condition number 12, ridge 0",
                "intercept = 1.5, standard error 0.25",
                "lag:1m = -0.125",
                "hourOfDay.sin is left out: it is early",
            ]
        );
    }

    #[test]
    fn one_in_force_says_how_many() {
        let why = "inFlight in 5m is 31.25".to_owned();
        let on = policy(ForecastReport { on: true, why: why.clone(), replicas: Some(5), ..ForecastReport::default() });
        assert_eq!(in_short(&on), "5 at least, 0.912 of 500 within 0.9");
        assert_eq!(in_words(&on)[0], why);
        assert!(in_words(&on)[1].starts_with("tested"), "{:?}", in_words(&on));
    }

    #[test]
    fn a_policy_without_one_says_nothing() {
        for policy in [json!({"forecast": null}), json!({})] {
            assert_eq!((in_short(&policy), in_words(&policy), coefficients(&policy)), Default::default());
        }
    }
}
