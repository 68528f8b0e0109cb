//! The bed's AWS API with a record of what is asked of it, and with a test's own answers in front of it.

use crate::aws_calls::aws_calls;
use crate::harness::aws_endpoint;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// A call of AWS: the action as IAM spells it, and what it works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCall {
    pub action: String,
    pub arn: String,
}

/// What becomes of a call.
pub enum Answer {
    /// The bed's API answers it.
    Forwarded,
    /// This is the answer: status and body.
    Said(u16, String),
    /// The bed's API does what it asks for, and this is what the caller hears.
    Instead(u16, String),
    /// The caller may not do this, in AWS's own words.
    Denied(AwsCall),
}

/// The bed's AWS API with a record of what is asked of it. Calls of one action can be denied, in AWS's own words.
pub struct RecordedAws {
    calls: Arc<Mutex<Vec<AwsCall>>>,
    /// For `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    server: Arc<tiny_http::Server>,
}

impl RecordedAws {
    pub fn start(denied: Option<&str>) -> Self {
        Self::scripted(denied, |_, _| None)
    }

    /// `answer` may answer a call (its action and body) in the API's place: status and body.
    pub fn scripted(
        denied: Option<&str>,
        answer: impl Fn(&str, &str) -> Option<(u16, String)> + Send + 'static,
    ) -> Self {
        let denied = denied.map(ToOwned::to_owned);
        Self::played(move |calls, body| {
            if let Some(call) = calls.iter().find(|call| Some(&call.action) == denied.as_ref()) {
                return Answer::Denied(call.clone());
            }
            let said = answer(&calls[0].action, body);
            said.map_or(Answer::Forwarded, |(status, text)| Answer::Said(status, text))
        })
    }

    /// `answer` decides on every request, which is given as the calls that it amounts to (the one that it names first) and
    /// its body.
    pub fn played(answer: impl FnMut(&[AwsCall], &str) -> Answer + Send + 'static) -> Self {
        let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
        let endpoint = format!("http://{}", server.server_addr().to_ip().unwrap());
        let calls: Arc<Mutex<Vec<AwsCall>>> = Arc::default();
        let record = calls.clone();
        let own = server.clone();
        std::thread::spawn(move || serve(&own, &record, answer));
        Self { calls, endpoint, server }
    }

    pub fn calls(&self) -> Vec<AwsCall> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for RecordedAws {
    /// Ends the server's threads: a soak starts thousands of servers.
    fn drop(&mut self) {
        self.server.unblock();
    }
}

/// A request, read to its end.
struct Asked {
    method: String,
    url: String,
    head: Vec<(String, String)>,
    body: String,
}

impl Asked {
    fn read(request: &mut tiny_http::Request) -> Self {
        let mut body = String::new();
        request.as_reader().read_to_string(&mut body).unwrap();
        let head = request.headers().iter();
        Self {
            method: request.method().to_string(),
            url: request.url().to_owned(),
            head: head.map(|header| (header.field.to_string(), header.value.to_string())).collect(),
            body,
        }
    }

    /// What AWS says to whoever may not.
    fn denial(&self, call: &AwsCall) -> (u16, String) {
        let message = format!(
            "User: arn:aws:sts::123456789012:assumed-role/build/x is not authorized to perform: {} on resource: {} because no identity-based policy allows the {} action",
            call.action, call.arn, call.action
        );
        if self.head.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-amz-target")) {
            (400, serde_json::json!({ "__type": "AccessDeniedException", "message": message }).to_string())
        } else if call.action.starts_with("scheduler:") {
            // Its kind of error stands in a header in AWS, and the SDKs take it from the body as well.
            (403, serde_json::json!({ "__type": "AccessDeniedException", "Message": message }).to_string())
        } else {
            (
                403,
                format!(
                    "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{message}</Message></Error></ErrorResponse>"
                ),
            )
        }
    }

    /// Passes it on to the bed's API.
    fn forward(&self) -> (u16, String) {
        let address = aws_endpoint();
        let host = address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        // HTTP/1.0: the answer ends with the connection and is never in chunks.
        let mut text = format!("{} {} HTTP/1.0\r\nHost: {host}\r\n", self.method, self.url);
        let own = ["host", "connection", "content-length", "transfer-encoding"];
        for (name, value) in self.head.iter().filter(|(name, _)| !own.contains(&name.to_lowercase().as_str()))
        {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body));
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn serve(
    server: &tiny_http::Server,
    record: &Mutex<Vec<AwsCall>>,
    mut answer: impl FnMut(&[AwsCall], &str) -> Answer,
) {
    for mut request in server.incoming_requests() {
        let asked = Asked::read(&mut request);
        let calls = aws_calls(&asked.method, &asked.url, &asked.head, &asked.body);
        record.lock().unwrap().extend(calls.iter().cloned());
        let (status, text) = match answer(&calls, &asked.body) {
            Answer::Forwarded => asked.forward(),
            Answer::Said(status, text) => (status, text),
            Answer::Instead(status, text) => {
                asked.forward();
                (status, text)
            }
            Answer::Denied(call) => asked.denial(&call),
        };
        let response = tiny_http::Response::from_string(text).with_status_code(status);
        let _ = request.respond(response);
    }
}
