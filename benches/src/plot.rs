//! Throughput and 99th percentile over the number of callers, as a picture.

use std::ops::Range;
use std::path::Path;

use anyhow::{anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::row::Row;

const SIZE: (u32, u32) = (900, 960);

/// Dark enough for a white background, and told apart by most people who don't see all colours.
const COLOURS: [RGBColor; 11] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
    RGBColor(120, 60, 20),
    RGBColor(90, 60, 150),
    RGBColor(150, 150, 0),
];

/// A headline, and what is drawn.
type Chart = (&'static str, fn(&Row) -> f64);

const CHARTS: [Chart; 2] = [
    ("calls per second", |row| row.rps),
    ("99th percentile, µs", |row| row.p99_us),
];

/// Draws the rows that have the smallest payload.
pub(crate) fn draw(rows: &[Row], file: &Path) -> anyhow::Result<()> {
    let payload = rows.iter().map(|row| row.payload).min();
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| Some(row.payload) == payload && row.scenario.is_none())
        .collect();
    let most = rows.iter().map(|row| row.callers).max().unwrap_or(0);
    ensure!(most > 1, "a plot needs several numbers of callers");
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = || {
        area.fill(&WHITE)?;
        for (part, chart) in area.split_evenly((CHARTS.len(), 1)).iter().zip(CHARTS) {
            draw_chart(part, chart, &rows, most as f64)?;
        }
        area.present()
    };
    // The error borrows from the area.
    drawn().map_err(|error| anyhow!("{}: {error}", file.display()))
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_chart<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    (headline, figure): Chart,
    rows: &[&Row],
    most: f64,
) -> Drawn<'a> {
    let figures = || rows.iter().map(|row| figure(row));
    let range = figures().fold(f64::INFINITY, f64::min) * 0.8..figures().fold(0.0, f64::max) * 1.25;
    let callers: Range<f64> = 1.0..most;
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{headline}, over callers ({} bytes)", rows[0].payload),
            ("sans-serif", 18),
        )
        .margin(16)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(callers.log_scale(), range.log_scale())?;
    let whole = |number: &f64| format!("{number:.0}");
    chart
        .configure_mesh()
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .light_line_style(WHITE)
        .draw()?;

    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        // Who takes one caller only has no line.
        let is_line = rows.iter().filter(|other| other.name == row.name).count() > 1;
        if is_line && !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    for (name, colour) in names.into_iter().zip(COLOURS.iter().cycle()) {
        let points = rows
            .iter()
            .filter(|row| row.name == name)
            .map(|row| (row.callers as f64, figure(row)));
        // Ourselves stand out.
        let width = if name.starts_with("ours") { 3 } else { 1 };
        let line = LineSeries::new(points, colour.stroke_width(width));
        let sign = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(width));
        chart.draw_series(line)?.label(name).legend(sign);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}
