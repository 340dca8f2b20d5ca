//! Horizontal bars as an SVG, in colours that suit light and dark pages.

use std::fmt::Write as _;

const ROW: usize = 26;
const LABELS: usize = 250;
const WIDTH: usize = 430;

/// Draws a bar for each name, and highlights those of this crate.
pub(crate) fn bars(title: &str, rows: &[(&str, f64)], ours: impl Fn(&str) -> bool) -> String {
    let longest = rows
        .iter()
        .map(|row| row.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = (rows.len() + 1) * ROW + 14;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#808080\">\n\
         <text x=\"4\" y=\"18\" font-weight=\"bold\">{title}</text>\n",
        LABELS + WIDTH + 90,
    );
    for (index, (name, value)) in rows.iter().enumerate() {
        let top = (index + 1) * ROW + 6;
        let colour = if ours(name) { "#2f7ed8" } else { "#b0b0b0" };
        let length = value / longest * WIDTH as f64;
        let middle = top + ROW / 2 + 2;
        let end = LABELS as f64 + length + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.0}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{end:.0}\" y=\"{middle}\">{value:.0}</text>",
            LABELS - 8,
            ROW - 8,
        );
    }
    svg + "</svg>\n"
}
