//! The report as one page: no script, no network, light and dark.
//!
//! | file | what it draws |
//! |---|---|
//! | `svg` | lines, texts and scales for the plots |
//! | `ladder` | a bar for each row, with its floor |
//! | `curves` | percentiles, in small plots of rows that belong together |
//! | `drift` | how the machine's pace changed meanwhile |
//! | `breakdown` | where the time of an access goes |

mod breakdown;
mod curves;
mod drift;
mod ladder;
mod svg;

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write as _};

use super::super::{Report, Row, Section};
use super::table::{switches, times};
use super::words::{self, count};

const STYLE: &str = include_str!("page.css");
const HOW_TO_READ: &str = include_str!("how_to_read.html");

/// How many colours `page.css` has for rows.
const COLOURS: usize = 6;

/// The report as an HTML page that needs nothing else.
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    // Into a string: this cannot fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(page: &mut String, report: &Report) -> fmt::Result {
    let title = format!(
        "What an access costs: vgpu-stub bench, {}",
        words::date(report.started)
    );
    let title = Escaped(&title);
    // The policy forbids what the page does not have.
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>What an access costs</h1>\n\
         <p class=\"lead\">Hop by hop, each row beside its floor.</p>\n"
    )?;
    if report.interrupted {
        writeln!(page, "<p class=\"bad\">{}</p>", words::INTERRUPTED)?;
    }
    machine(page, report)?;
    page.push_str(HOW_TO_READ);
    contents(page, report)?;
    page.push_str("</header>\n<main>\n");
    for (number, section) in report.sections.iter().enumerate() {
        write_section(page, number, section)?;
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn machine(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<dl class=\"machine\">\n");
    for (name, text) in words::facts(report) {
        writeln!(
            page,
            "<div><dt>{name}</dt><dd>{}</dd></div>",
            Escaped(&text)
        )?;
    }
    page.push_str("</dl>\n");
    Ok(())
}

fn contents(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<nav aria-label=\"Rungs\"><ol>\n");
    for (number, section) in report.sections.iter().enumerate() {
        let (rung, title) = (section.rung, Escaped(&section.title));
        let missing = if section.rows.is_empty() && section.breakdown.is_none() {
            " <i>not measured</i>"
        } else {
            ""
        };
        writeln!(
            page,
            "<li><a href=\"#s{number}\"><b>{rung}</b> {title}</a>{missing}</li>"
        )?;
    }
    page.push_str("</ol></nav>\n");
    Ok(())
}

fn write_section(page: &mut String, number: usize, section: &Section) -> fmt::Result {
    let (rung, title) = (section.rung, Escaped(&section.title));
    writeln!(
        page,
        "<section id=\"s{number}\">\n<h2><span class=\"rung\">{rung}</span> {title}</h2>"
    )?;
    for note in &section.notes {
        writeln!(page, "<p class=\"note\">{}</p>", Escaped(note))?;
    }
    if words::is_empty(section) {
        page.push_str("<p class=\"note\">Nothing was measured.</p>\n");
    }
    if !section.gaps.is_empty() {
        page.push_str("<ul class=\"gaps\">\n");
        for gap in &section.gaps {
            let (what, why) = (Escaped(&gap.what), Escaped(&gap.why));
            writeln!(page, "<li><b>Not measured: {what}</b>: {why}</li>")?;
        }
        page.push_str("</ul>\n");
    }
    if !section.rows.is_empty() {
        let plots = curves::plots(section);
        let colours = Colours::of(section, &plots);
        ladder::write(page, section, &colours);
        curves::write(page, section, &plots, &colours)?;
        drift::write(page, section);
        table(page, section)?;
    }
    if let Some(breakdown) = &section.breakdown {
        breakdown::write(page, breakdown)?;
    }
    page.push_str("</section>\n");
    Ok(())
}

fn table(page: &mut String, section: &Section) -> fmt::Result {
    page.push_str(
        "<div class=\"wide\"><table>\n<caption>All figures, for one access</caption>\n\
         <thead><tr><th scope=\"col\">row</th>",
    );
    for name in ["min", "p50", "p90", "p99", "p99.9", "max", "mean"] {
        write!(page, "<th scope=\"col\">{name}</th>")?;
    }
    page.push_str(
        "<th scope=\"col\">n</th><th scope=\"col\">× floor</th>\
         <th scope=\"col\"><abbr title=\"context switches of an access\">csw</abbr></th>\
         </tr></thead>\n<tbody>\n",
    );
    for row in &section.rows {
        table_row(page, row)?;
    }
    page.push_str("</tbody></table></div>\n");
    Ok(())
}

fn table_row(page: &mut String, row: &Row) -> fmt::Result {
    let class = if row.floor.is_none() {
        " class=\"floor\""
    } else {
        ""
    };
    let (what, name) = (Escaped(&row.what), Escaped(&row.name));
    write!(
        page,
        "<tr{class}><th scope=\"row\">{what}<br><code>{name}</code>"
    )?;
    if let Some(why) = &row.partial {
        write!(
            page,
            "<br><span class=\"bad\">ended early: {}</span>",
            Escaped(why)
        )?;
    }
    page.push_str("</th>");
    for (at, value) in times(row).into_iter().enumerate() {
        let class = if at == 1 { " class=\"p50\"" } else { "" };
        write!(page, "<td{class}>{}</td>", time(value))?;
    }
    let (n, ratio, switches) = (count(row.summary.n), ratio(row), switches(row));
    writeln!(
        page,
        "<td>{n}</td><td class=\"ratio\">{ratio}</td><td>{switches}</td></tr>"
    )
}

/// A time with its unit.
fn time(nanoseconds: f64) -> String {
    let (digits, unit) = words::time(nanoseconds);
    format!("{digits}\u{a0}{}", unit.replace('u', "µ"))
}

/// The ratio to the floor with its interval, if there is one.
fn ratio(row: &Row) -> String {
    let Some(ratio) = &row.ratio else {
        return String::new();
    };
    let (value, margin) = words::ratio(ratio);
    format!("{value}\u{a0}±\u{a0}{}", margin.as_deref().unwrap_or("?"))
}

/// The class of each row's colour: floors have their own, and what is
/// measured the same way on the same thing, which is the last word of its
/// name, has the same colour throughout a section, unless a plot has it twice.
struct Colours(Vec<String>);

impl Colours {
    fn of(section: &Section, plots: &[Vec<usize>]) -> Self {
        let mut known = HashMap::new();
        let mut colour = |row: &Row| {
            if row.floor.is_none() {
                return "floor".to_owned();
            }
            let last = row.name.rsplit('.').next().unwrap_or_default().to_owned();
            let next = known.len();
            format!("c{}", *known.entry(last).or_insert(next) % COLOURS)
        };
        let mut colours: Vec<String> = section.rows.iter().map(&mut colour).collect();
        for plot in plots {
            let mut free: Vec<String> = (0..COLOURS).map(|number| format!("c{number}")).collect();
            for &row in plot {
                let colour = &mut colours[row];
                match free.iter().position(|free| free == colour) {
                    Some(at) => drop(free.remove(at)),
                    None if colour == "floor" || free.is_empty() => {}
                    None => *colour = free.remove(0),
                }
            }
        }
        Colours(colours)
    }

    fn at(&self, row: usize) -> &str {
        &self.0[row]
    }
}

/// A text in HTML: as an element's content, or between double quotes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // HTML has no control characters.
                control if control.is_control() => f.write_char(' ')?,
                character => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn no_text_of_the_report_becomes_markup() {
        let mut report = sample::large();
        let evil = "</title><script>\"'&\u{7}";
        let machine = &mut report.machine;
        machine.cpu = evil.to_owned();
        machine.version = evil.to_owned();
        for section in &mut report.sections {
            section.title += evil;
            section.notes.push(evil.to_owned());
            section.gap(evil, evil);
            for row in &mut section.rows {
                row.what += evil;
                row.name += evil;
                row.floor.iter_mut().for_each(|floor| floor.push_str(evil));
                row.partial = Some(evil.to_owned());
            }
            if let Some(breakdown) = &mut section.breakdown {
                breakdown.title += evil;
                breakdown.parts[0].what += evil;
            }
        }
        let page = html(&report);
        assert_eq!(page.matches("<script").count(), 0);
        assert_eq!(
            page.matches("</title>").count(),
            page.matches("<title>").count()
        );
        assert!(!page.contains('\u{7}'));
        assert!(page.contains("&lt;script&gt;&quot;&#39;&amp; "));
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        let page = html(&sample::large());
        for forbidden in [
            "http://", "https://", "src=", "url(", "@import", "NaN", "inf",
        ] {
            let at = page.find(forbidden);
            assert_eq!(
                at,
                None,
                "{forbidden}: {:?}",
                at.map(|at| &page[at - 60..at + 60])
            );
        }
        let mut open = Vec::new();
        for tag in page
            .split('<')
            .skip(1)
            .filter_map(|tag| tag.split('>').next())
        {
            let name = tag.split([' ', '\n']).next().unwrap();
            match name.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed), "{tag}"),
                None if tag.ends_with('/') || ["!DOCTYPE", "meta", "br"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn an_empty_report_is_a_page_as_well() {
        let mut report = sample::small();
        report.sections.clear();
        assert!(html(&report).ends_with("</html>\n"));
    }
}
