//! Rows as a table for people.

use crate::row::Row;

const COLUMNS: [&str; 16] = [
    "callers",
    "name",
    "calls/s",
    "min..max",
    "ratio",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "p99 ratio",
    "client CPU µs",
    "worker CPU µs",
    "broker CPU µs",
    "commands",
    "bytes in",
    "bytes out",
    "peak MiB c/w/b",
];

/// Prints the rows, a table per payload, in Markdown that can also be read as it is.
pub(crate) fn print(rows: &[Row]) {
    for rows in rows.chunk_by(|a, b| a.payload == b.payload) {
        println!("\n{} bytes, {} rounds\n", rows[0].payload, rows[0].rounds);
        let mut lines = vec![COLUMNS.map(str::to_owned)];
        lines.extend(rows.iter().map(cells));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
        for (number, line) in lines.iter().enumerate() {
            let cells: Vec<String> = line
                .iter()
                .zip(widths)
                .map(|(cell, width)| padded(cell, width))
                .collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
    }
}

/// Names to the left, numbers to the right.
fn padded(cell: &str, width: usize) -> String {
    if cell.starts_with(|first: char| first.is_ascii_alphabetic()) {
        format!("{cell:<width$}")
    } else {
        format!("{cell:>width$}")
    }
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let some =
        |figure: Option<f64>, digits: usize| figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"));
    let mib = |kib: f64| format!("{:.0}", kib / 1024.0);
    [
        row.callers.to_string(),
        row.name.clone(),
        format!("{:.0}", row.rps),
        format!("{:.0}..{:.0}", row.rps_min, row.rps_max),
        some(row.ratio, 2),
        format!("{:.0}", row.p50_us),
        format!("{:.0}", row.p99_us),
        format!("{:.0}", row.p999_us),
        some(row.p99_ratio, 2),
        format!("{:.2}", row.client_cpu_us),
        format!("{:.2}", row.worker_cpu_us),
        some(row.redis_cpu_us, 2),
        some(row.redis_commands, 2),
        some(row.redis_bytes_in, 0),
        some(row.redis_bytes_out, 0),
        format!(
            "{}/{}/{}",
            mib(row.client_peak_kib),
            mib(row.worker_peak_kib),
            row.redis_peak_kib.map_or("-".to_owned(), mib)
        ),
    ]
}
