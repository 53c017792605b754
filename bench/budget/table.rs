//! The table that is printed, and what it means for the exit status.

use std::fmt;
use std::process::ExitCode;

use crate::rig::RigError;

/// One line.
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    pub(crate) goal: String,
    /// How it is measured.
    pub(crate) how: &'static str,
    pub(crate) figure: Result<Figure, RigError>,
}

/// What came out.
pub(crate) struct Figure {
    text: String,
    met: bool,
    /// Whether missing the goal is a failure.
    binding: bool,
}

impl Figure {
    /// A count per access; whole ones are printed as such.
    pub(crate) fn count(count: f64, met: bool) -> Self {
        let rounded = (count * 100.0).round() / 100.0;
        Figure::binding(format!("{rounded}"), met)
    }

    /// Something whose goal binds.
    pub(crate) fn binding(text: String, met: bool) -> Self {
        Figure {
            text,
            met,
            binding: true,
        }
    }

    /// Something that is only told.
    pub(crate) fn told(text: String, met: bool) -> Self {
        Figure {
            text,
            met,
            binding: false,
        }
    }
}

/// All lines.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// A failure if something could not be measured or is above a goal that
    /// binds. What is missing only counts in `ci`.
    pub(crate) fn verdict(&self, ci: bool) -> ExitCode {
        let fine = self.0.iter().all(|row| match &row.figure {
            Ok(figure) => figure.met || !figure.binding,
            Err(RigError::Missing { .. }) => !ci,
            Err(RigError::Failed { .. }) => false,
        });
        if fine {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | goal | measured | | how |\n|---|---|---|---|---|")?;
        for row in &self.0 {
            let (measured, met) = match &row.figure {
                Ok(figure) if figure.met => (figure.text.clone(), "met"),
                Ok(figure) if figure.binding => (figure.text.clone(), "ABOVE"),
                Ok(figure) => (figure.text.clone(), "above"),
                Err(error) => (error.to_string(), "not measured"),
            };
            let Row {
                what, goal, how, ..
            } = row;
            writeln!(f, "| {what} | {goal} | {measured} | {met} | {how} |")?;
        }
        Ok(())
    }
}
