//! JUnit results that tests write: what failed, and with which words.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// How much of a failure's text is kept, in characters.
const LONGEST: usize = 500;
/// How deep elements may nest.
const DEEPEST: usize = 64;

/// What a file of results says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    /// How many tests ran, those that failed included.
    pub(crate) run: usize,
    /// How many did not run.
    pub(crate) skipped: usize,
    /// What failed: the test's name, and why.
    pub(crate) failed: Vec<(String, String)>,
}

impl Results {
    /// Adds what a file says.
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
                // `&lt;` and the like stand between the pieces of a text.
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
                match case.reason {
                    _ if case.skipped => self.skipped += 1,
                    Some(reason) => {
                        self.run += 1;
                        self.failed.push((case.name, first_lines(&reason)));
                    }
                    None => self.run += 1,
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
    /// Inside of the element that says why.
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

/// One line for the summary.
fn first_lines(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    crate::text::shortened(&words.join(" "), LONGEST)
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
        assert_eq!((results.run, results.skipped), (3, 1));
        let failed = [("divides & more", "expected 1 but was 2"), ("breaks", "<boom>")];
        assert_eq!(results.failed, failed.map(|(name, why)| (name.to_owned(), why.to_owned())));
        assert!(results.add("<testsuite><testcase>").is_err());
        assert!(results.add(&"<a>".repeat(100)).is_err());
    }
}
