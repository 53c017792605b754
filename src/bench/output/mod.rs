//! The report for people and for other programs. Each of these is a function
//! of the [`Report`](super::Report) alone.
//!
//! | file | for |
//! |---|---|
//! | `table` | a terminal, and the same as Markdown |
//! | `csv` | spreadsheets |
//! | `hlog` | the public plotters of `HdrHistogram` |
//! | `html` | a browser: one page with its plots |
//! | `words` | times, counts, ratios and dates as people say them |
//!
//! JSON is what serde makes of a report; [`Report::parse`](super::Report::parse)
//! reads it.

mod csv;
mod hlog;
mod html;
mod table;
pub(super) mod words;

#[cfg(test)]
pub(super) mod sample;

pub use csv::csv;
pub use hlog::{hlog, percentiles};
pub use html::html;
pub use table::{Table, markdown};
