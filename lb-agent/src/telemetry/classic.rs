//! Turns OpenMetrics' text into Prometheus' older text format, version 0.0.4. The samples are the same; there, a family has the name
//! of its samples (`_total`, `_info`), no unit and no end mark, and there is no type `info`.

/// The text in the older format.
pub fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_names_of_their_samples() {
        let cases = [
            (
                "# HELP a Some help.\n# TYPE a counter\na_total 1\n",
                "# HELP a_total Some help.\n# TYPE a_total counter\na_total 1\n",
            ),
            (
                "# HELP a_bytes H.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 1\n",
                "# HELP a_bytes_total H.\n# TYPE a_bytes_total counter\na_bytes_total 1\n",
            ),
            (
                "# HELP b H.\n# TYPE b info\nb_info{v=\"1\"} 1\n",
                "# HELP b_info H.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n",
            ),
            ("# HELP c H.\n# TYPE c gauge\nc 1\n# EOF\n", "# HELP c H.\n# TYPE c gauge\nc 1\n"),
        ];
        for (open, classic) in cases {
            assert_eq!(from_open_metrics(open), classic);
        }
    }
}
