//! Counts as bars.

use super::{CYAN, paint};

/// A bar for each row, with its count and share behind it; the largest count has the whole width.
pub(crate) fn bars(rows: &[(String, u64)]) {
    const WIDTH: u64 = 40;
    let longest = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let total = rows.iter().map(|(_, count)| count).sum::<u64>().max(1);
    let name_width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, count) in rows {
        let eighths = count * WIDTH * 8 / longest;
        let full = usize::try_from(eighths / 8).expect("a bar is at most as wide as WIDTH");
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
            [usize::try_from(eighths % 8).expect("a remainder of eight is small")];
        let bar = format!("{}{part}", "█".repeat(full));
        let padded = format!("{bar:<width$}", width = usize::try_from(WIDTH).unwrap_or(0));
        let percent = (100 * count + total / 2) / total;
        println!("  {name:<name_width$}  {} {count:>5}  {percent:>3} %", paint(CYAN, &padded));
    }
}
