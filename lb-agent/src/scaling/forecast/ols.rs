//! Multiple linear regression, y = b0 + sum(bi xi), by least squares.
//!
//! Columns are centred and scaled to unit variance, decomposed by Householder QR, and refined once from their own residuals; so the
//! certified results of NIST's reference data come out to nine digits and more. Columns that are almost combinations of each other
//! (condition number above [`COLLINEAR`]) get the smallest ridge that brings it down to there (Hoerl and Kennard, "Ridge Regression",
//! Technometrics 12, 1970). A constant column is dropped, and named.

use nalgebra::{DMatrix, DVector};
use serde::Serialize;

/// The condition number of the scaled columns above which coefficients are not told apart any more, and a ridge is added.
pub const COLLINEAR: f64 = 1e6;

/// Variation of a column, relative to its largest value, that is only rounding.
const CONSTANT: f64 = 1e-10;

/// A column of observations.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its values, one for each observation.
    pub values: Vec<f64>,
}

/// A coefficient and how well it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Of which column; none for the constant.
    pub name: String,
    /// By which the column is multiplied.
    pub estimate: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// A column that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// The fitted line, plane or hyperplane.
#[derive(Clone, Debug, PartialEq)]
pub struct Regression {
    /// The constant, named `intercept`.
    pub intercept: Term,
    /// The columns that are used, in their order.
    pub terms: Vec<Term>,
    /// The columns that are not.
    pub dropped: Vec<Dropped>,
    /// Observations.
    pub observations: usize,
    /// Coefficient of determination.
    pub r_squared: f64,
    /// Residual standard deviation, in the target's unit.
    pub residual_deviation: f64,
    /// Condition number of the centred and scaled columns, before any ridge.
    pub condition: f64,
    /// The ridge that was added to the scaled columns' squares; 0 for plain least squares.
    pub ridge: f64,
}

/// Why there is no regression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OlsError {
    /// A column has more or fewer values than the target.
    #[error("column {name:?} has {found} values where the target has {wanted}")]
    Length {
        /// Its name.
        name: String,
        /// How many it has.
        found: usize,
        /// How many the target has.
        wanted: usize,
    },
    /// A value is infinite or not a number.
    #[error("value {row} of column {name:?} is {value}, which is no finite number")]
    NotFinite {
        /// The column's name.
        name: String,
        /// Which value, from 1.
        row: usize,
        /// What it is.
        value: String,
    },
    /// Fewer observations than coefficients and one.
    #[error("{found} observations are too few for {coefficients} coefficients; at least {wanted} are needed")]
    TooFew {
        /// How many there are.
        found: usize,
        /// Coefficients, the constant included.
        coefficients: usize,
        /// How many it takes.
        wanted: usize,
    },
}

impl Regression {
    /// What is expected where the columns have these values; asks for the value of every used column by name.
    pub fn predict(&self, value: impl Fn(&str) -> f64) -> f64 {
        self.terms.iter().fold(self.intercept.estimate, |sum, term| sum + term.estimate * value(&term.name))
    }
}

/// Fits `target` to the columns.
pub fn fit(columns: &[Column], target: &Column) -> Result<Regression, OlsError> {
    let rows = target.values.len();
    for column in columns.iter().chain([target]) {
        check(column, rows)?;
    }
    let (used, dropped): (Vec<_>, Vec<_>) = columns.iter().partition(|column| varies(&column.values));
    let coefficients = used.len() + 1;
    if rows <= coefficients {
        return Err(OlsError::TooFew { found: rows, coefficients, wanted: coefficients + 1 });
    }
    let design = Design::new(&used, rows);
    let mean = mean(&target.values);
    let centred = DVector::from_iterator(rows, target.values.iter().map(|value| value - mean));
    let solution = design.solve(&centred);
    let dropped = dropped.into_iter().map(constant).collect();
    Ok(regression(&used, dropped, &design, &solution, &centred, mean))
}

fn check(column: &Column, rows: usize) -> Result<(), OlsError> {
    let name = || column.name.clone();
    if column.values.len() != rows {
        return Err(OlsError::Length { name: name(), found: column.values.len(), wanted: rows });
    }
    match column.values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(row) => Err(OlsError::NotFinite { name: name(), row: row + 1, value: column.values[row].to_string() }),
    }
}

fn constant(column: &Column) -> Dropped {
    Dropped { name: column.name.clone(), why: "it is constant".into() }
}

/// The mean, corrected once for what rounding left.
fn mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let rough = values.iter().sum::<f64>() / count;
    rough + values.iter().map(|value| value - rough).sum::<f64>() / count
}

fn varies(values: &[f64]) -> bool {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
    high - low > CONSTANT * high.abs().max(low.abs())
}

/// The columns, centred and scaled, and their decomposition.
struct Design {
    means: Vec<f64>,
    scales: Vec<f64>,
    scaled: DMatrix<f64>,
    q: DMatrix<f64>,
    r: DMatrix<f64>,
    condition: f64,
    ridge: f64,
}

struct Solution {
    /// Coefficients of the scaled columns.
    scaled: DVector<f64>,
    /// Their covariance, for residuals of variance 1.
    covariance: DMatrix<f64>,
    /// Degrees of freedom that the coefficients take, the constant not counted.
    freedom: f64,
}

impl Design {
    fn new(columns: &[&Column], rows: usize) -> Self {
        let means: Vec<_> = columns.iter().map(|column| mean(&column.values)).collect();
        let mut scaled = DMatrix::from_fn(rows, columns.len(), |row, at| columns[at].values[row] - means[at]);
        let scales: Vec<_> = scaled.column_iter().map(|column| column.norm() / (rows as f64).sqrt()).collect();
        for (mut column, scale) in scaled.column_iter_mut().zip(&scales) {
            column.unscale_mut(*scale);
        }
        let (q, r) = scaled.clone().qr().unpack();
        let (condition, ridge) = conditioning(&r);
        Self { means, scales, scaled, q, r, condition, ridge }
    }

    fn solve(&self, target: &DVector<f64>) -> Solution {
        let columns = self.r.ncols();
        let (q, r) = stacked(&self.r, self.ridge).qr().unpack();
        let inner = inverse(&r);
        let step = |of: &DVector<f64>| &inner * q.rows(0, columns).tr_mul(&self.q.tr_mul(of));
        let mut scaled = step(target);
        if self.ridge == 0.0 {
            // With a ridge the residuals are not orthogonal to the columns, and a second step would undo it.
            scaled += step(&(target - &self.scaled * &scaled));
        }
        let hat = &self.r * &inner;
        let covariance = &inner * hat.tr_mul(&hat) * inner.transpose();
        Solution { freedom: hat.norm_squared(), scaled, covariance }
    }
}

/// The condition number, and the ridge that brings it to [`COLLINEAR`] if it is above.
fn conditioning(r: &DMatrix<f64>) -> (f64, f64) {
    if r.is_empty() {
        return (1.0, 0.0);
    }
    let values = r.singular_values();
    let (high, low) = (values.max(), values.min());
    let condition = if low > 0.0 { high / low } else { f64::INFINITY };
    if condition <= COLLINEAR {
        return (condition, 0.0);
    }
    let limit = COLLINEAR * COLLINEAR;
    (condition, (high * high - limit * low * low) / (limit - 1.0))
}

/// R of the columns with the ridge's rows below them.
fn stacked(r: &DMatrix<f64>, ridge: f64) -> DMatrix<f64> {
    let columns = r.ncols();
    let mut rows = r.clone().resize_vertically(2 * columns, 0.0);
    rows.rows_mut(columns, columns).fill_diagonal(ridge.sqrt());
    rows
}

/// The inverse of an upper triangle without a zero on its diagonal, which the conditioning has seen to.
fn inverse(r: &DMatrix<f64>) -> DMatrix<f64> {
    let mut inverse = DMatrix::identity(r.nrows(), r.ncols());
    r.solve_upper_triangular_mut(&mut inverse);
    inverse
}

fn regression(
    used: &[&Column],
    dropped: Vec<Dropped>,
    design: &Design,
    solution: &Solution,
    centred: &DVector<f64>,
    mean: f64,
) -> Regression {
    let observations = centred.len();
    let residual = (centred - &design.scaled * &solution.scaled).norm_squared();
    let total = centred.norm_squared();
    let freedom = observations as f64 - 1.0 - solution.freedom;
    let variance = if freedom > 0.0 { residual / freedom } else { 0.0 };
    let terms: Vec<_> = (0..used.len())
        .map(|at| Term {
            name: used[at].name.clone(),
            estimate: solution.scaled[at] / design.scales[at],
            standard_error: (variance * solution.covariance[(at, at)]).sqrt() / design.scales[at],
        })
        .collect();
    let at_origin = DVector::from_iterator(used.len(), design.means.iter().zip(&design.scales).map(|(m, s)| m / s));
    let spread = 1.0 / observations as f64 + at_origin.dot(&(&solution.covariance * &at_origin));
    Regression {
        intercept: Term {
            name: "intercept".into(),
            estimate: mean - terms.iter().zip(&design.means).map(|(term, mean)| term.estimate * mean).sum::<f64>(),
            standard_error: (variance * spread).sqrt(),
        },
        terms,
        dropped,
        observations,
        r_squared: if total > 0.0 { 1.0 - residual / total } else { 1.0 },
        residual_deviation: variance.sqrt(),
        condition: design.condition,
        ridge: design.ridge,
    }
}

#[cfg(test)]
#[path = "ols_tests.rs"]
mod tests;
