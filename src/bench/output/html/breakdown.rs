//! Where the time of an access goes: a bar of its parts, and their figures.

use std::fmt::{self, Write as _};

use super::super::super::{Breakdown, Whose};
use super::super::table::whose;
use super::super::words::percent;
use super::svg::{Anchor, Svg, WIDTH};
use super::{Escaped, time};

const HEIGHT: f64 = 46.0;

/// The least width that has room for a part's number.
const NUMBER: f64 = 16.0;

pub(super) fn write(page: &mut String, breakdown: &Breakdown) -> fmt::Result {
    let title = Escaped(&breakdown.title);
    writeln!(page, "<h3>Where the time goes: {title}</h3>\n<figure>")?;
    let sum: f64 = breakdown.parts.iter().map(|part| part.p50).sum();
    let mut svg = Svg::new(WIDTH, HEIGHT, &format!("Parts of {}", breakdown.title));
    let mut x = 0.0;
    for (number, part) in (1..).zip(&breakdown.parts) {
        let width = percent(part.p50, sum) / 100.0 * WIDTH;
        let say = format!("{}: {}", part.what, time(part.p50));
        let class = format!("part {}", whose(part.whose));
        svg.rect(
            &class,
            (x, 4.0),
            ((width - 2.0).max(1.0), HEIGHT - 8.0),
            &say,
        );
        if width >= NUMBER {
            let at = (x + width / 2.0 - 1.0, HEIGHT / 2.0 + 5.0);
            svg.text("number", Anchor::Middle, at, &format!("{number}"));
        }
        x += width;
    }
    page.push_str(&svg.finish());
    legend(page, breakdown, sum)?;
    page.push_str("</figure>\n");
    table(page, breakdown, sum)
}

/// Who spends how much of it.
fn legend(page: &mut String, breakdown: &Breakdown, sum: f64) -> fmt::Result {
    page.push_str("<figcaption><ul class=\"legend\">\n");
    for (who, name) in [
        (Whose::Ours, "this project's code"),
        (Whose::Kernel, "the kernel: system calls, wake-ups"),
        (Whose::Hypervisor, "processor and hypervisor: exit, entry"),
    ] {
        let parts = breakdown.parts.iter().filter(|part| part.whose == who);
        let time_of: f64 = parts.map(|part| part.p50).sum();
        let (class, share) = (whose(who), percent(time_of, sum));
        let time = time(time_of);
        writeln!(
            page,
            "<li class=\"{class}\">{name}: {time}, {share:.0} %</li>"
        )?;
    }
    page.push_str("</ul></figcaption>\n");
    Ok(())
}

fn table(page: &mut String, breakdown: &Breakdown, sum: f64) -> fmt::Result {
    page.push_str(
        "<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">part</th>\
         <th scope=\"col\">whose</th><th scope=\"col\">p50</th><th scope=\"col\">p99</th>\
         <th scope=\"col\">share</th></tr></thead>\n<tbody>\n",
    );
    for (number, part) in (1..).zip(&breakdown.parts) {
        let what = Escaped(&part.what);
        let (whose, p50, p99) = (whose(part.whose), time(part.p50), time(part.p99));
        let share = percent(part.p50, sum);
        writeln!(
            page,
            "<tr><th scope=\"row\">{number}. {what}</th><td>{whose}</td><td>{p50}</td>\
             <td>{p99}</td><td>{share:.0} %</td></tr>"
        )?;
    }
    let sum = time(sum);
    page.push_str("<tr class=\"floor\"><th scope=\"row\">sum of the medians</th><td></td>");
    writeln!(
        page,
        "<td>{sum}</td><td></td><td></td></tr>\n</tbody></table></div>"
    )
}
