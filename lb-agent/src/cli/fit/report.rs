//! What `weir fit` says.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{FitArgs, FitError};
use crate::{
    cli::output::{API_VERSION, Table},
    scaling::{
        checked::feature,
        forecast::{
            engine::figure,
            ols::{COLLINEAR, Dropped, Regression, Term},
        },
    },
};

/// The regression.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    api_version: &'static str,
    kind: &'static str,
    target: String,
    observations: usize,
    r_squared: f64,
    residual_deviation: f64,
    condition: Option<f64>,
    ridge: f64,
    coefficients: Vec<Coefficient>,
    dropped: Vec<Dropped>,
    forecast: Option<Forecast>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Coefficient {
    name: String,
    estimate: f64,
    standard_error: f64,
    /// How many standard errors the estimate is away from 0; none for a perfect fit.
    t: Option<f64>,
}

/// What goes into a policy's `forecast`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Forecast {
    #[serde(skip_serializing_if = "Option::is_none")]
    per_replica: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    horizon: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    coefficients: BTreeMap<String, f64>,
}

impl From<&Term> for Coefficient {
    fn from(term: &Term) -> Self {
        let t = (term.standard_error > 0.0).then(|| term.estimate / term.standard_error);
        Self { name: term.name.clone(), estimate: term.estimate, standard_error: term.standard_error, t }
    }
}

impl Report {
    pub(super) fn new(args: &FitArgs, regression: Regression, derived: bool) -> Result<Self, FitError> {
        let per_replica = args.at.map(|at| per_replica(at, &regression)).transpose()?;
        let terms = std::iter::once(&regression.intercept).chain(&regression.terms);
        Ok(Self {
            api_version: API_VERSION,
            kind: "Fit",
            target: args.target.clone(),
            observations: regression.observations,
            r_squared: regression.r_squared,
            residual_deviation: regression.residual_deviation,
            condition: regression.condition.is_finite().then_some(regression.condition),
            ridge: regression.ridge,
            coefficients: terms.map(Coefficient::from).collect(),
            forecast: forecast(args, &regression, per_replica, derived),
            dropped: regression.dropped,
        })
    }

    pub(super) fn text(&self, colour: bool) -> String {
        let mut table = Table::new(&["NAME", "ESTIMATE", "STD-ERROR", "T"]);
        let shown = |value: f64| format!("{value:.6e}");
        table.rows = self
            .coefficients
            .iter()
            .map(|one| {
                let t = one.t.map_or_else(|| "-".to_owned(), |t| format!("{t:.2}"));
                vec![one.name.as_str().into(), shown(one.estimate).into(), shown(one.standard_error).into(), t.into()]
            })
            .collect();
        let mut out = table.render(colour);
        self.summary(&mut out);
        self.policy(&mut out);
        out
    }

    fn summary(&self, out: &mut String) {
        let condition = self.condition.map_or_else(|| "infinite".to_owned(), figure);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "\n{} over {} rows: R2 {:.6}, residual standard deviation {}, condition number {condition}.",
            self.target,
            self.observations,
            self.r_squared,
            figure(self.residual_deviation),
        );
        if self.ridge > 0.0 {
            let limit = figure(COLLINEAR);
            let _ = writeln!(
                out,
                "The features are collinear (condition number above {limit}): a ridge of {:.1e} shares their weight.",
                self.ridge
            );
        }
        for Dropped { name, why } in &self.dropped {
            let _ = writeln!(out, "{name} is not used: {why}.");
        }
    }

    fn policy(&self, out: &mut String) {
        let Some(forecast) = &self.forecast else {
            let _ = writeln!(
                out,
                "\nFor a policy, name columns as features of a forecast, or say with --at where a replica is full."
            );
            return;
        };
        let _ = writeln!(out, "\nFor a policy:\n\nforecast:");
        // Serialising numbers and texts cannot fail.
        let yaml = crate::cli::output::yaml(forecast).unwrap_or_default();
        yaml.lines().for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
}

/// The value of the one feature at which the target reaches `at`.
fn per_replica(at: f64, regression: &Regression) -> Result<f64, FitError> {
    let no = |why: &str| Err(FitError::At { at, why: why.to_owned() });
    let [term] = regression.terms.as_slice() else {
        return no("the load that one replica carries takes exactly one feature that varies");
    };
    let per_replica = (at - regression.intercept.estimate) / term.estimate;
    match per_replica.is_finite() && per_replica > 0.0 {
        true => Ok(per_replica),
        false => no("the fit does not reach it with any load"),
    }
}

/// What of it a policy takes: coefficients of features that it knows, and the load of one replica.
fn forecast(args: &FitArgs, regression: &Regression, per_replica: Option<f64>, derived: bool) -> Option<Forecast> {
    let terms = std::iter::once(&regression.intercept).chain(&regression.terms);
    let known = args.features.iter().all(|name| feature("", name).is_ok());
    if !derived && !known {
        return per_replica.map(|_| Forecast { per_replica, ..Forecast::default() });
    }
    let now = "lag:0s".to_owned();
    let implied = (derived && !args.features.contains(&now)).then_some(now);
    Some(Forecast {
        per_replica,
        features: implied.into_iter().chain(args.features.iter().cloned()).collect(),
        horizon: Some(args.horizon.to_string().replace(' ', "")),
        coefficients: terms.map(|term| (term.name.clone(), term.estimate)).collect(),
    })
}
