//! Rows as a table for people.

use crate::row::Row;

/// A headline and what stands below it.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: &[Column] = &[
    ("callers", |row| row.callers.to_string()),
    ("", |row| {
        row.value.map_or(NOTHING.to_owned(), |value| value.to_string())
    }),
    ("name", |row| row.name.clone()),
    ("calls/s", |row| format!("{:.0}", row.rps)),
    ("min..max", |row| format!("{:.0}..{:.0}", row.rps_min, row.rps_max)),
    ("ratio", |row| some(row.ratio, 2)),
    ("p50 µs", |row| format!("{:.0}", row.p50_us)),
    ("p99 µs", |row| format!("{:.0}", row.p99_us)),
    ("p99.9 µs", |row| format!("{:.0}", row.p999_us)),
    ("max µs", |row| format!("{:.0}", row.max_us)),
    ("p99 ratio", |row| some(row.p99_ratio, 2)),
    ("CPU µs client", |row| format!("{:.2}", row.client_cpu_us)),
    ("worker", |row| format!("{:.2}", row.worker_cpu_us)),
    ("broker", |row| some(row.redis_cpu_us, 2)),
    ("commands", |row| some(row.redis_commands, 2)),
    ("bytes in", |row| some(row.redis_bytes_in, 0)),
    ("bytes out", |row| some(row.redis_bytes_out, 0)),
    ("peak MiB client", |row| mib(row.client_peak_kib)),
    ("worker", |row| mib(row.worker_peak_kib)),
    ("broker", |row| row.redis_peak_kib.map_or(NOTHING.to_owned(), mib)),
    ("allocations client", |row| some(row.client_allocations, 1)),
    ("worker", |row| some(row.worker_allocations, 1)),
    ("busiest/laziest", |row| some(row.fairness, 2)),
    ("MiB calls/s", |row| some(row.large_rps, 0)),
];

const NOTHING: &str = "-";

/// Prints the rows, a table per scenario and payload, in Markdown that can also be read as it is.
pub(crate) fn print(rows: &[Row]) {
    for rows in rows.chunk_by(|a, b| (a.scenario, a.payload) == (b.scenario, b.payload)) {
        let Row { payload, rounds, .. } = rows[0];
        println!("\n{payload} bytes, {rounds} rounds\n");
        // Columns without any content are left out.
        let columns = COLUMNS
            .iter()
            .map(|column| cells(column, rows))
            .filter(|cells| cells[1..].iter().any(|cell| cell != NOTHING));
        let columns: Vec<Vec<String>> = columns.map(padded).collect();
        for line in 0..=rows.len() {
            let cells: Vec<&str> = columns.iter().map(|column| column[line].as_str()).collect();
            println!("| {} |", cells.join(" | "));
            if line == 0 {
                let lines: Vec<String> = cells.iter().map(|cell| "-".repeat(cell.chars().count() + 2)).collect();
                println!("|{}|", lines.join("|"));
            }
        }
    }
}

fn cells((headline, cell): &Column, rows: &[Row]) -> Vec<String> {
    // The column without a headline is that of what changes.
    let headline = if headline.is_empty() {
        rows[0].scenario.unwrap_or(NOTHING)
    } else {
        headline
    };
    std::iter::once(headline.to_owned())
        .chain(rows.iter().map(cell))
        .collect()
}

/// All cells as wide as the widest; names to the left, numbers to the right.
fn padded(cells: Vec<String>) -> Vec<String> {
    let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let is_text = cells[1..]
        .iter()
        .all(|cell| cell.starts_with(|first: char| first.is_ascii_alphabetic()));
    let pad = |cell: String| {
        if is_text {
            format!("{cell:<width$}")
        } else {
            format!("{cell:>width$}")
        }
    };
    cells.into_iter().map(pad).collect()
}

fn some(figure: Option<f64>, digits: usize) -> String {
    figure.map_or(NOTHING.to_owned(), |figure| format!("{figure:.digits$}"))
}

fn mib(kib: f64) -> String {
    format!("{:.1}", kib / 1024.0)
}
