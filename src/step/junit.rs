//! Reads JUnit files: the results of test cases, with the reasons of failures.

use crate::event::Counts;
use crate::text::{one_line, shortened};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// The maximum length of a failure's reason, in characters.
const LONGEST: usize = 500;
/// The maximum nesting of elements.
const DEEPEST: usize = 64;

/// How many cases are kept. The others are only counted.
const MOST_CASES: usize = 10_000;

/// The results of JUnit files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) counts: Counts,
    pub(crate) cases: Vec<TestResult>,
}

/// A test case and its result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestResult {
    pub(crate) name: String,
    pub(crate) status: CaseResult,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CaseResult {
    Passed,
    Skipped,
    /// With the reason.
    Failed(String),
}

impl Results {
    /// Adds the results of a file.
    pub(crate) fn add(&mut self, xml: &str) -> Result<(), String> {
        let mut reader = Reader::from_str(xml);
        let mut case: Option<Case> = None;
        let mut depth = 0;
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            match event {
                Event::Start(element) => {
                    depth += 1;
                    if depth > DEEPEST {
                        return Err(format!("more than {DEEPEST} elements are nested"));
                    }
                    Self::open(&element, &mut case);
                }
                Event::Empty(element) => {
                    Self::open(&element, &mut case);
                    self.close(element.name().as_ref(), &mut case);
                }
                Event::End(element) => {
                    depth = depth.saturating_sub(1);
                    self.close(element.name().as_ref(), &mut case);
                }
                Event::Text(text) => append(&mut case, &text),
                Event::CData(text) => append(&mut case, &text),
                // The reader splits a text at references such as `&lt;`.
                Event::GeneralRef(name) => {
                    let known = quick_xml::escape::resolve_predefined_entity(&name);
                    append(&mut case, known.unwrap_or("?"));
                }
                Event::Eof => return if depth == 0 { Ok(()) } else { Err("it ends too early".to_owned()) },
                _ => {}
            }
        }
    }

    fn open(element: &BytesStart<'_>, case: &mut Option<Case>) {
        match (element.name().as_ref(), case) {
            ("testcase", case) => {
                let name = attribute(element, "name").unwrap_or_else(|| "a test without a name".to_owned());
                let name = match attribute(element, "classname").filter(|class| !class.is_empty()) {
                    Some(class) => format!("{class} › {name}"),
                    None => name,
                };
                *case = Some(Case { name, reason: None, inside: false, skipped: false });
            }
            ("failure" | "error", Some(case)) if case.reason.is_none() => {
                case.reason =
                    Some(attribute(element, "message").map(|message| message + " ").unwrap_or_default());
                case.inside = true;
            }
            ("skipped", Some(case)) => case.skipped = true,
            _ => {}
        }
    }

    fn close(&mut self, name: &str, case: &mut Option<Case>) {
        match name {
            "failure" | "error" => {
                if let Some(case) = case {
                    case.inside = false;
                }
            }
            "testcase" => {
                let Some(case) = case.take() else { return };
                let status = match case.reason {
                    _ if case.skipped => CaseResult::Skipped,
                    Some(reason) => CaseResult::Failed(short_line(&reason)),
                    None => CaseResult::Passed,
                };
                self.counts.skipped += usize::from(status == CaseResult::Skipped);
                self.counts.run += usize::from(status != CaseResult::Skipped);
                self.counts.failed += usize::from(matches!(status, CaseResult::Failed(_)));
                if self.cases.len() < MOST_CASES {
                    self.cases.push(TestResult { name: case.name, status });
                }
            }
            _ => {}
        }
    }
}

/// A test case that is being read.
struct Case {
    name: String,
    reason: Option<String>,
    /// The reader is inside the element with the reason.
    inside: bool,
    skipped: bool,
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok().flatten()?;
    attribute.normalized_value(quick_xml::XmlVersion::default()).ok().map(std::borrow::Cow::into_owned)
}

fn append(case: &mut Option<Case>, text: &str) {
    if let Some(Case { reason: Some(reason), inside: true, .. }) = case
        && reason.len() < LONGEST * 4
    {
        reason.push_str(text);
    }
}

/// Shortens a string to one line for the summary.
fn short_line(text: &str) -> String {
    shortened(&one_line(text), LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_their_names_and_words() {
        let mut results = Results::default();
        results
            .add(
                r#"<?xml version="1.0"?><testsuites><testsuite name="s"><testcase classname="a.B" name="adds"/>
                <testcase name="divides &amp; more"><failure message="expected 1">but
                  was 2</failure><system-out>noise</system-out></testcase>
                <testcase name="waits"><skipped/></testcase>
                <testcase name="breaks"><error><![CDATA[<boom>]]></error></testcase></testsuite></testsuites>"#,
            )
            .unwrap();
        assert_eq!(results.counts, Counts { run: 3, failed: 2, skipped: 1 });
        let failed = |why: &str| CaseResult::Failed(why.to_owned());
        let expected = [
            ("a.B › adds", CaseResult::Passed),
            ("divides & more", failed("expected 1 but was 2")),
            ("waits", CaseResult::Skipped),
            ("breaks", failed("<boom>")),
        ];
        let expected = expected.map(|(name, status)| TestResult { name: name.to_owned(), status });
        assert_eq!(results.cases, expected);
        assert!(results.add("<testsuite><testcase>").is_err());
        assert!(results.add(&"<a>".repeat(100)).is_err());
    }
}
