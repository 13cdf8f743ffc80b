use super::*;
use crate::summary::tests::summary;

const EVIL: &str = "</style><script>alert('1')</script> & \"x\"";

fn page() -> String {
    let mut summary = summary();
    summary.facts.insert(EVIL.into(), EVIL.into());
    summary.dataset.name = EVIL.into();
    let objective = summary.objectives["xent"].clone();
    summary.objectives.insert(EVIL.into(), objective);
    summary.comparisons[0].sentence = EVIL.into();
    let example = Example {
        objective: EVIL.into(),
        prompt: EVIL.into(),
        expected: EVIL.into(),
        device_answer: EVIL.into(),
        score: -0.5,
        cloud_answer: Some(EVIL.into()),
        right: true,
    };
    Report { title: EVIL, lead: EVIL, summary: &summary, examples: &[example] }.render().unwrap()
}

#[test]
fn text_from_outside_stays_text() {
    let page = page();
    assert!(!page.contains("<script"), "nothing from outside becomes an element");
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.matches("&lt;script&gt;").count() >= 12, "every place that shows such a text shows it escaped");
    assert!(page.contains("&quot;x&quot;"), "quotes in attributes are escaped");
}

#[test]
fn the_page_loads_nothing() {
    let page = page();
    for loading in ["src=", "href=", "url(", "@import", "<link", "<iframe"] {
        assert!(!page.contains(loading), "{loading}");
    }
    let addresses = page.match_indices("http").map(|(at, _)| &page[at..at + 26]);
    assert!(addresses.into_iter().all(|address| address == "http://www.w3.org/2000/svg"), "only the SVG namespace");
}

#[test]
fn figures_follow_the_page_s_colours_and_say_what_they_are() {
    let page = page();
    let figures: Vec<&str> = page.split("<svg ").skip(1).map(|rest| rest.split("</svg>").next().unwrap()).collect();
    assert_eq!(figures.len(), 6, "deferral, cost, reliability, and a histogram for each of three objectives");
    for figure in figures {
        assert!(figure.starts_with("role=\"img\" aria-label=\""), "{}", &figure[..60]);
        assert!(!figure.contains("\"#"), "a stand-in colour was left");
        assert!(figure.contains("var(--ink)") && figure.contains("<text"), "axes have labels");
        assert!(!figure.split('>').next().unwrap().contains(" width="), "the page decides the size");
    }
}

#[test]
fn the_page_is_accessible_in_the_ways_a_text_can_show() {
    let page = page();
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"));
    assert!(page.contains("<title>"));
    assert!(page.contains("name=\"viewport\""));
    assert_eq!(page.matches("<th").count(), page.matches("<th scope=").count() + page.matches("<thead").count());
}

#[test]
fn a_summary_without_objectives_is_still_a_page() {
    let mut summary = summary();
    summary.objectives.clear();
    summary.comparisons.clear();
    let page = Report { title: "t", lead: "", summary: &summary, examples: &[] }.render().unwrap();
    assert!(page.contains("No objective was measured."));
}

#[test]
fn the_numbers_in_the_page_are_those_of_the_summary() {
    let summary = summary();
    let page = Report { title: "t", lead: "l", summary: &summary, examples: &[] }.render().unwrap();
    let json = page.split("All numbers as JSON</summary><pre tabindex=\"0\">").nth(1).unwrap();
    let json = json.split("</pre>").next().unwrap().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    assert!(serde_json::from_str::<Summary>(&json).unwrap() == summary);
}
