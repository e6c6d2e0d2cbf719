//! A Grafana dashboard as typed values, of which it has no more than ours need. The JSON is Grafana's dashboard schema, version 41.

use serde::Serialize;

/// The width of a dashboard in grid units.
const WIDTH: u32 = 24;
/// The variable that holds the Prometheus.
const SOURCE: &str = "datasource";

/// A dashboard.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dashboard {
    uid: &'static str,
    title: &'static str,
    description: &'static str,
    tags: [&'static str; 1],
    schema_version: u32,
    editable: bool,
    graph_tooltip: u32,
    refresh: &'static str,
    time: TimeRange,
    templating: Templating,
    panels: Vec<Placed>,
}

#[derive(Debug, Serialize)]
struct TimeRange {
    from: &'static str,
    to: &'static str,
}

#[derive(Debug, Serialize)]
struct Templating {
    list: Vec<Variable>,
}

/// What a user chooses at the top of a dashboard.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Variable {
    Datasource { name: &'static str, label: &'static str, query: &'static str },
    Query(QueryVariable),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryVariable {
    name: &'static str,
    label: &'static str,
    datasource: Source,
    definition: String,
    query: VariableQuery,
    multi: bool,
    include_all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_value: Option<&'static str>,
    refresh: u32,
    sort: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VariableQuery {
    query: String,
    ref_id: &'static str,
}

/// A Prometheus, chosen by the user.
#[derive(Clone, Copy, Debug, Serialize)]
struct Source {
    #[serde(rename = "type")]
    kind: &'static str,
    uid: &'static str,
}

const PROMETHEUS: Source = Source { kind: "prometheus", uid: "${datasource}" };

/// A panel and where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Placed {
    id: u32,
    grid_pos: GridPos,
    #[serde(flatten)]
    panel: Panel,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct GridPos {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

/// A panel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Panel {
    #[serde(rename = "type")]
    kind: Kind,
    title: &'static str,
    description: &'static str,
    datasource: Source,
    field_config: FieldConfig,
    options: Options,
    targets: Vec<Target>,
}

/// How a panel shows its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Stat,
    Timeseries,
}

#[derive(Debug, Serialize)]
struct FieldConfig {
    defaults: Field,
    overrides: [(); 0],
}

#[derive(Debug, Serialize)]
struct Field {
    unit: Unit,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<f64>,
    custom: Custom,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Custom {
    fill_opacity: u32,
    stacking: Stacking,
}

#[derive(Debug, Serialize)]
struct Stacking {
    mode: &'static str,
}

/// What a panel's numbers are, by Grafana's names.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Unit {
    #[serde(rename = "short")]
    Number,
    #[serde(rename = "cps")]
    PerSecond,
    #[serde(rename = "pps")]
    Packets,
    #[serde(rename = "Bps")]
    Bytes,
    #[serde(rename = "s")]
    Seconds,
    /// 0 to 1.
    #[serde(rename = "percentunit")]
    Share,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Options {
    #[serde(rename_all = "camelCase")]
    Stat {
        reduce_options: Reduce,
        color_mode: &'static str,
        graph_mode: &'static str,
    },
    Timeseries {
        legend: Legend,
        tooltip: Tooltip,
    },
}

#[derive(Debug, Serialize)]
struct Reduce {
    calcs: [&'static str; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Legend {
    display_mode: &'static str,
    placement: &'static str,
    show_legend: bool,
}

#[derive(Debug, Serialize)]
struct Tooltip {
    mode: &'static str,
    sort: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    ref_id: String,
    datasource: Source,
    expr: String,
    legend_format: &'static str,
}

impl Dashboard {
    /// An empty dashboard; Grafana knows it by `uid`.
    pub(super) fn new(uid: &'static str, title: &'static str, description: &'static str) -> Self {
        let source = Variable::Datasource { name: SOURCE, label: "Prometheus", query: "prometheus" };
        Self {
            uid,
            title,
            description,
            tags: ["weir"],
            schema_version: 41,
            editable: true,
            graph_tooltip: 1,
            refresh: "10s",
            time: TimeRange { from: "now-30m", to: "now" },
            templating: Templating { list: vec![source] },
            panels: Vec::new(),
        }
    }

    /// With a variable whose values are those of a label, in the series of a selector.
    pub(super) fn variable(self, name: &'static str, label: &'static str, selector: &str) -> Self {
        self.with_variable(name, label, selector, false)
    }

    /// The same for several values at once, at first all.
    pub(super) fn variable_of_many(self, name: &'static str, label: &'static str, selector: &str) -> Self {
        self.with_variable(name, label, selector, true)
    }

    fn with_variable(mut self, name: &'static str, label: &'static str, selector: &str, multi: bool) -> Self {
        let definition = format!("label_values({selector}, {name})");
        self.templating.list.push(Variable::Query(QueryVariable {
            name,
            label,
            datasource: PROMETHEUS,
            query: VariableQuery { query: definition.clone(), ref_id: "A" },
            definition,
            multi,
            include_all: multi,
            all_value: multi.then_some(".*"),
            // With each change of the time range.
            refresh: 2,
            sort: 1,
        }));
        self
    }

    /// With a row of panels of one height, which share its width.
    pub(super) fn row<const N: usize>(mut self, height: u32, panels: [Panel; N]) -> Self {
        let y = self.panels.iter().map(|placed| placed.grid_pos.y + placed.grid_pos.h).max().unwrap_or(0);
        let width = WIDTH / (N.max(1) as u32);
        for (column, panel) in (0..).zip(panels) {
            let grid_pos = GridPos { x: column * width, y, w: width, h: height };
            let id = self.panels.len() as u32 + 1;
            self.panels.push(Placed { id, grid_pos, panel });
        }
        self
    }

    /// As Grafana reads it.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Panel {
    /// One number, its last.
    pub(super) fn stat(title: &'static str, unit: Unit, description: &'static str) -> Self {
        let reduce_options = Reduce { calcs: ["lastNotNull"] };
        let options = Options::Stat { reduce_options, color_mode: "value", graph_mode: "area" };
        Self::new(Kind::Stat, title, unit, description, options)
    }

    /// Numbers over time.
    pub(super) fn lines(title: &'static str, unit: Unit, description: &'static str) -> Self {
        let options = Options::Timeseries {
            legend: Legend { display_mode: "list", placement: "bottom", show_legend: true },
            tooltip: Tooltip { mode: "multi", sort: "desc" },
        };
        Self::new(Kind::Timeseries, title, unit, description, options)
    }

    fn new(kind: Kind, title: &'static str, unit: Unit, description: &'static str, options: Options) -> Self {
        let custom = Custom { fill_opacity: 10, stacking: Stacking { mode: "none" } };
        let max = matches!(unit, Unit::Share).then_some(1.0);
        let defaults = Field { unit, min: Some(0.0), max, custom };
        let field_config = FieldConfig { defaults, overrides: [] };
        Self { kind, title, description, datasource: PROMETHEUS, field_config, options, targets: Vec::new() }
    }

    /// Stacked, where the sum means something.
    pub(super) fn stacked(mut self) -> Self {
        self.field_config.defaults.custom = Custom { fill_opacity: 40, stacking: Stacking { mode: "normal" } };
        self
    }

    /// With a query; `legend` names its series, with labels in `{{}}`.
    pub(super) fn query(mut self, expr: impl Into<String>, legend: &'static str) -> Self {
        let letter = (b'A' + self.targets.len() as u8) as char;
        let ref_id = letter.to_string();
        self.targets.push(Target { ref_id, datasource: PROMETHEUS, expr: expr.into(), legend_format: legend });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_placed_in_rows() {
        let panel = || Panel::stat("a", Unit::Number, "b").query("up", "");
        let board = Dashboard::new("u", "t", "d").row(4, [panel(), panel()]).row(8, [panel(), panel(), panel()]);
        let places: Vec<_> = board.panels.iter().map(|p| (p.id, p.grid_pos.x, p.grid_pos.y, p.grid_pos.w)).collect();
        assert_eq!(places, [(1, 0, 0, 12), (2, 12, 0, 12), (3, 0, 4, 8), (4, 8, 4, 8), (5, 16, 4, 8)]);
    }

    #[test]
    fn the_json_has_grafanas_names() {
        let panel = Panel::lines("a", Unit::Share, "b").query("up", "{{job}}").query("down", "");
        let board = Dashboard::new("u", "t", "d").variable_of_many("instance", "Node", "up").row(4, [panel]);
        let json = serde_json::to_value(&board).expect("JSON");
        assert_eq!(json["schemaVersion"], 41);
        assert_eq!(json["templating"]["list"][0]["type"], "datasource");
        let variable = &json["templating"]["list"][1];
        assert_eq!((&variable["type"], &variable["allValue"]), (&"query".into(), &".*".into()));
        assert_eq!(variable["query"]["query"], "label_values(up, instance)");
        let panel = &json["panels"][0];
        assert_eq!((&panel["type"], &panel["gridPos"]["w"]), (&"timeseries".into(), &24.into()));
        assert_eq!(panel["fieldConfig"]["defaults"]["unit"], "percentunit");
        assert_eq!(
            (&panel["targets"][1]["refId"], &panel["targets"][0]["legendFormat"]),
            (&"B".into(), &"{{job}}".into())
        );
    }
}
