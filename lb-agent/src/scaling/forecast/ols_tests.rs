use proptest::prelude::*;

use super::*;

/// The columns of a file of `tests/data/nist`, by name.
fn columns(text: &str) -> impl Fn(&str) -> Column {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    move |name| {
        let at = header.iter().position(|column| column == name).unwrap();
        Column { name: name.to_owned(), values: rows.iter().map(|row| row[at].trim().parse().unwrap()).collect() }
    }
}

/// Certified estimate and standard deviation of the estimate, the constant first.
type Certified = [(f64, f64)];

fn assert_certified(fit: &Regression, certified: &Certified, digits: i32) {
    let terms: Vec<_> = std::iter::once(&fit.intercept).chain(&fit.terms).collect();
    assert_eq!(terms.len(), certified.len());
    for (term, (estimate, deviation)) in terms.into_iter().zip(certified) {
        same(&term.name, term.estimate, *estimate, digits);
        if *deviation > 0.0 {
            same(&format!("standard error of {}", term.name), term.standard_error, *deviation, digits);
        } else {
            let share = term.standard_error / estimate.abs();
            assert!(
                share < 10f64.powi(-digits),
                "{}: a perfect fit has standard error {}",
                term.name,
                term.standard_error
            );
        }
    }
}

fn same(what: &str, value: f64, certified: f64, digits: i32) {
    let off = ((value - certified) / certified).abs();
    assert!(off < 10f64.powi(-digits), "{what} is {value}, certified {certified}: {:.1} digits", -off.log10());
}

#[test]
fn norris() {
    let column = columns(include_str!("../../../../tests/data/nist/norris.csv"));
    let fit = fit(&[column("x")], &column("y")).unwrap();
    assert_certified(&fit, &[(-0.262323073774029, 0.232818234301152), (1.00211681802045, 0.429796848199937e-03)], 11);
    same("residual deviation", fit.residual_deviation, 0.884796396144373, 11);
    same("R squared", fit.r_squared, 0.999993745883712, 13);
}

#[test]
fn longley() {
    let column = columns(include_str!("../../../../tests/data/nist/longley.csv"));
    let predictors = ["x1", "x2", "x3", "x4", "x5", "x6"].map(&column);
    let fit = fit(&predictors, &column("y")).unwrap();
    assert_certified(
        &fit,
        &[
            (-3482258.63459582, 890420.383607373),
            (15.0618722713733, 84.9149257747669),
            (-0.358191792925910e-01, 0.334910077722432e-01),
            (-2.02022980381683, 0.488399681651699),
            (-1.03322686717359, 0.214274163161675),
            (-0.511041056535807e-01, 0.226073200069370),
            (1829.15146461355, 455.478499142212),
        ],
        10,
    );
    same("residual deviation", fit.residual_deviation, 304.854073561965, 10);
    same("R squared", fit.r_squared, 0.995479004577296, 12);
    assert_eq!(fit.ridge, 0.0);
    same("condition", fit.condition, 110.544, 3);
}

#[test]
fn wampler() {
    const ONES: [f64; 6] = [1.0; 6];
    const TENTHS: [f64; 6] = [1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001];
    const DEVIATIONS: [f64; 6] =
        [2152.32624678170, 2363.55173469681, 779.343524331583, 101.475507550350, 5.64566512170752, 0.112324854679312];
    let column = columns(include_str!("../../../../tests/data/nist/wampler.csv"));
    let x = column("x");
    let power = |exponent: i32| Column {
        name: format!("x^{exponent}"),
        values: x.values.iter().map(|x| x.powi(exponent)).collect(),
    };
    let powers: Vec<_> = (1..=5).map(power).collect();
    for (target, estimates, factor, r_squared, digits) in [
        ("y1", ONES, 0.0, 1.0, 9),
        ("y2", TENTHS, 0.0, 1.0, 9),
        ("y3", ONES, 1.0, 0.999995559025820, 9),
        ("y4", ONES, 100.0, 0.957478440825662, 8),
        ("y5", ONES, 10_000.0, 0.224668921574940e-02, 6),
    ] {
        let fit = fit(&powers, &column(target)).unwrap();
        let certified: Vec<_> = estimates.into_iter().zip(DEVIATIONS.map(|deviation| deviation * factor)).collect();
        assert_certified(&fit, &certified, digits);
        same(&format!("R squared of {target}"), fit.r_squared, r_squared, digits);
        assert_eq!(fit.ridge, 0.0);
    }
}

fn named(name: &str, values: impl IntoIterator<Item = f64>) -> Column {
    Column { name: name.into(), values: values.into_iter().collect() }
}

#[test]
fn collinear_columns_get_a_ridge_and_share_the_weight() {
    let x: Vec<_> = (0..50).map(f64::from).collect();
    let columns = [named("a", x.clone()), named("b", x.iter().map(|x| 2.0 * x + 1.0)), named("flat", vec![7.0; 50])];
    let fit = fit(&columns, &named("y", x.iter().map(|x| 3.0 * x + 5.0))).unwrap();
    assert!(fit.condition > COLLINEAR && fit.ridge > 0.0, "{fit:?}");
    assert_eq!(fit.dropped, [Dropped { name: "flat".into(), why: "it is constant".into() }]);
    assert!((fit.terms[0].estimate - 2.0 * fit.terms[1].estimate).abs() < 1e-3, "{fit:?}");
    let at = |x: f64| fit.predict(|name| if name == "a" { x } else { 2.0 * x + 1.0 });
    assert!((at(100.0) - 305.0).abs() < 1e-3, "{}", at(100.0));
}

#[test]
fn without_columns_it_is_the_mean() {
    let fit = fit(&[], &named("y", [1.0, 2.0, 6.0])).unwrap();
    same("mean", fit.intercept.estimate, 3.0, 14);
    same("its standard error", fit.intercept.standard_error, (7f64 / 3.0).sqrt(), 12);
}

#[test]
fn what_cannot_be_fitted_is_named() {
    let y = named("y", [1.0, 2.0, 4.0]);
    for (columns, wanted) in [
        (vec![named("a", [1.0, 2.0])], "column \"a\" has 2 values where the target has 3"),
        (vec![named("a", [1.0, f64::NAN, 2.0])], "value 2 of column \"a\" is NaN, which is no finite number"),
        (
            vec![named("a", [1.0, 2.0, 5.0]), named("b", [0.0, 1.0, 0.0])],
            "3 observations are too few for 3 coefficients; at least 4 are needed",
        ),
    ] {
        assert_eq!(fit(&columns, &y).unwrap_err().to_string(), wanted);
    }
}

proptest! {
    /// Residuals of least squares are orthogonal to every column: nothing is left to gain.
    #[test]
    fn residuals_are_orthogonal(rows in prop::collection::vec(prop::array::uniform4(-1e3..1e3f64), 8..60)) {
        let column = |at: usize, name: &str| named(name, rows.iter().map(|row| row[at]));
        let columns = [column(0, "a"), column(1, "b"), column(2, "c")];
        let y = column(3, "y");
        let fit = fit(&columns, &y).unwrap();
        let residual = |row: &[f64; 4]| {
            row[3] - fit.predict(|name| row[columns.iter().position(|column| column.name == name).unwrap()])
        };
        for at in 0..3 {
            let product: f64 = rows.iter().map(|row| row[at] * residual(row)).sum();
            prop_assert!(product.abs() < 1e-6 * rows.len() as f64 * 1e6, "{product}");
        }
        prop_assert!((-1e-9..=1.0).contains(&fit.r_squared));
    }

    /// Units do not matter: a column in thousandths has a coefficient a thousand times as great, and the same prediction.
    #[test]
    fn scale_does_not_matter(rows in prop::collection::vec(prop::array::uniform3(-1e3..1e3f64), 8..40), factor in 1e-6..1e6f64) {
        let column = |at: usize, name: &str, factor: f64| named(name, rows.iter().map(|row| row[at] * factor));
        let y = column(2, "y", 1.0);
        let one = fit(&[column(0, "a", 1.0), column(1, "b", 1.0)], &y).unwrap();
        let other = fit(&[column(0, "a", factor), column(1, "b", 1.0)], &y).unwrap();
        let (plain, scaled) = (one.terms[0].estimate, other.terms[0].estimate * factor);
        prop_assert!((plain - scaled).abs() < 1e-6 * plain.abs().max(1e-6), "{plain} and {scaled}");
    }
}
