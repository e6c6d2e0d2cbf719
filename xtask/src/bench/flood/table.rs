//! The numbers as Markdown: what clients met with, and what the balancer's memory and counters say.

use comfy_table::{Table, presets};

use super::{Phase, Report, Room, Run};

/// The least part of the goodput that is wanted.
pub(super) const GOODPUT: f64 = 0.9;
/// The least part of new clients that is wanted to be served.
pub(super) const SERVED: f64 = 0.9;

/// All tables, below what was measured on what.
pub(super) fn text(report: &Report) -> String {
    let Report { machine, seconds, runs } = report;
    let rows = |header: &[&str], row: fn(&Run) -> Vec<String>| {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(header);
        table.add_rows(runs.iter().map(row));
        table
    };
    let clients = rows(&CLIENTS, clients);
    let memory = rows(&MEMORY, memory);
    let mut exact = Table::new();
    exact.load_style(presets::ASCII_MARKDOWN).set_header(EXACT);
    exact.add_rows(runs.iter().filter_map(counters));
    format!("{seconds} s; {machine}, load {}\n\n{clients}\n\n{memory}\n\n{exact}", machine.load)
}

const CLIENTS: [&str; 8] = [
    "",
    "SYNs/s at nobody",
    "at the frontend",
    "exchanges/s at rest",
    "flood at nobody",
    "flood at the frontend",
    "resets",
    "new clients served (by their first SYN)",
];

fn clients(run: &Run) -> Vec<String> {
    let Run { name, rest, nobody, flood, .. } = run;
    let goodput = run.goodput();
    let broken = match flood.stalled {
        0 => flood.resets.to_string(),
        stalled => format!("{}, {stalled} stalled", flood.resets),
    };
    vec![
        name.clone(),
        rate(nobody.syns_a_second()),
        rate(flood.syns_a_second()),
        rate(rest.exchanges_a_second()),
        rate(nobody.exchanges_a_second()),
        format!("{} ({goodput:.2}: {})", rate(flood.exchanges_a_second()), verdict(goodput >= GOODPUT)),
        format!("{broken}: {}", verdict(flood.resets + flood.stalled == 0)),
        format!("{}: {}", served(flood), verdict(flood.served() >= SERVED)),
    ]
}

const MEMORY: [&str; 5] = ["", "flows before", "during", "30 s after", "source ports before / during / after"];

fn memory(run: &Run) -> Vec<String> {
    let [before, during, after] = [&run.rest.room, &run.flood.room, &run.after];
    let ports = [before, during, after].map(|room| room.source_ports.map_or("?".to_owned(), |ports| ports.to_string()));
    vec![run.name.clone(), flows(before), flows(during), flows(after), ports.join(" / ")]
}

/// Flows, of how many there is room for, and how many of them are half-open.
fn flows(room: &Room) -> String {
    let half_open = room.unproven.map(|flows| format!(" ({flows} half-open)")).unwrap_or_default();
    format!("{} of {}{half_open}", room.used, room.capacity)
}

const EXACT: [&str; 6] = [
    "",
    "SYNs made; delivered + other packets",
    "sent on + dropped",
    "difference",
    "connections: answered + accepted, counted",
    "drift",
];

fn counters(run: &Run) -> Option<Vec<String>> {
    let exact = run.exact.as_ref()?;
    let made = match run.flood.refused {
        0 => run.flood.sent.to_string(),
        refused => format!("{} ({refused} refused)", run.flood.sent),
    };
    let drops: Vec<_> = exact.drops.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let drift = if exact.agree { exact.repairs.to_string() } else { format!("{}, and some now", exact.repairs) };
    let (connections, difference) = (exact.connections, exact.connection_difference());
    Some(vec![
        run.name.clone(),
        format!("{made}; {} + {}", exact.syns, exact.others),
        format!("{} + ({})", exact.sent_on, drops.join(", ")),
        exact.difference().to_string(),
        format!("{} + {}, {connections}: {difference}", exact.answered, exact.accepted),
        drift,
    ])
}

/// Three figures are enough.
fn rate(number: f64) -> String {
    if number >= 1e5 { format!("{:.0}k", number / 1e3) } else { format!("{number:.0}") }
}

fn served(phase: &Phase) -> String {
    format!("{:.1} % of {} ({:.1} %)", phase.served() * 100.0, phase.came, phase.at_once() * 100.0)
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::report, *};

    #[test]
    fn what_is_wanted_is_met_or_missed_by_each_variant() {
        let text = text(&report());
        let rows = |name: &str| {
            let rows = text.lines().filter(|line| line.contains(name)).map(|line| {
                let cells = line.split('|').map(str::trim).filter(|cell| !cell.is_empty());
                cells.map(str::to_owned).collect::<Vec<_>>()
            });
            rows.collect::<Vec<_>>()
        };
        let weir = rows("weir, local, deaf");
        assert_eq!(weir[0][1..3], ["100k", "100k"], "{text}");
        assert_eq!(weir[0][5..], ["15 (0.91: met)", "0: met", "90.1 % of 1000 (90.0 %): met"], "{text}");
        assert_eq!(weir[1][1..3], ["8 of 1048576 (4 half-open)", "1048576 of 1048576 (524288 half-open)"], "{text}");
        assert_eq!(
            weir[2][1..],
            ["6000000 (5 refused); 6000000 + 500", "6000000 + (499 table-full)", "1", "10 + 5, 15: 0", "0"],
            "{text}"
        );
        let nftables = rows("nftables, local, deaf");
        assert_eq!(nftables.len(), 2, "nothing is known of what nftables counts");
        assert_eq!(nftables[0][5..], ["15 (0.89: missed)", "3: missed", "89.9 % of 1000 (89.8 %): missed"], "{text}");
    }
}
