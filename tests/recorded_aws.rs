//! A server in front of the bed's AWS API: it records all calls, and answers some of them for a test.

use crate::aws_calls::aws_calls;
use crate::bed::aws_endpoint;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A call of AWS: the action as IAM spells it, and what it works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCall {
    pub action: String,
    pub arn: String,
}

/// How a call is answered.
pub enum Answer {
    /// With the response of the bed's API.
    Forwarded,
    /// With this status and body.
    Said(u16, String),
    /// With this status and body, after the bed's API has executed the call.
    Instead(u16, String),
    /// With AWS's own error for missing permissions.
    Denied(AwsCall),
}

/// The bed's AWS API behind a server that records all calls, and that can deny or answer them itself.
pub struct RecordedAws {
    record: Arc<Mutex<Record>>,
    /// For `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    server: Arc<tiny_http::Server>,
    threads: usize,
    gate: Arc<Gate>,
}

/// Holds requests back until this many are there at the same time, for a moment.
#[derive(Default)]
struct Gate {
    wanted: usize,
    /// The requests that are being answered, and the most that there were.
    pending: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Gate {
    fn enter(&self) {
        let mut pending = self.pending.lock().unwrap();
        pending.0 += 1;
        pending.1 = pending.1.max(pending.0);
        self.changed.notify_all();
        let is_early = |(_, most): &mut (usize, usize)| *most < self.wanted;
        drop(self.changed.wait_timeout_while(pending, Duration::from_secs(5), is_early).unwrap());
    }

    fn leave(&self) {
        self.pending.lock().unwrap().0 -= 1;
    }
}

#[derive(Default)]
struct Record {
    calls: Vec<AwsCall>,
    /// The action of each request and how many seconds its response took. `GET /calls` returns them as JSON.
    times: Vec<(String, f64)>,
}

impl RecordedAws {
    pub fn start(denied: Option<&str>) -> Self {
        Self::scripted(denied, |_, _| None)
    }

    /// `answer` gets a call's action and body, and may return a status and a body in the API's place.
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

    /// `answer` decides on every request. It gets the calls that the request amounts to, the named one first, and the body.
    pub fn played(answer: impl FnMut(&[AwsCall], &str) -> Answer + Send + 'static) -> Self {
        Self::threaded(1, answer)
    }

    /// The same with so many requests at a time; `answer` still decides on one at a time.
    pub fn threaded(threads: usize, answer: impl FnMut(&[AwsCall], &str) -> Answer + Send + 'static) -> Self {
        Self::gated(threads, 0, answer)
    }

    /// Answers the first requests only once this many are there at the same time, or after some seconds.
    pub fn gathering(requests: usize) -> Self {
        Self::gated(2 * requests, requests, |_, _| Answer::Forwarded)
    }

    /// The most requests that were there at the same time.
    pub fn most_at_once(&self) -> usize {
        self.gate.pending.lock().unwrap().1
    }

    fn gated(
        threads: usize,
        wanted: usize,
        answer: impl FnMut(&[AwsCall], &str) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Accepted connections inherit the option: no response waits for an acknowledgement of its first half.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(tiny_http::Server::from_listener(listener, None).unwrap());
        let (record, answer) = (Arc::<Mutex<Record>>::default(), Arc::new(Mutex::new(answer)));
        let gate = Arc::new(Gate { wanted, ..Gate::default() });
        for _ in 0..threads {
            let (server, record, answer) = (server.clone(), record.clone(), answer.clone());
            let gate = gate.clone();
            std::thread::spawn(move || serve(&server, &record, &gate, &answer));
        }
        Self { record, endpoint, server, threads, gate }
    }

    pub fn calls(&self) -> Vec<AwsCall> {
        self.record.lock().unwrap().calls.clone()
    }
}

impl Drop for RecordedAws {
    /// Ends the server's threads: a soak starts thousands of servers.
    fn drop(&mut self) {
        for _ in 0..self.threads {
            self.server.unblock();
        }
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

    /// The status and body with which AWS denies a call.
    fn denial(&self, call: &AwsCall) -> (u16, String) {
        let message = format!(
            "User: arn:aws:sts::123456789012:assumed-role/build/x is not authorized to perform: {} on resource: {} because no identity-based policy allows the {} action",
            call.action, call.arn, call.action
        );
        if self.head.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-amz-target")) {
            (400, serde_json::json!({ "__type": "AccessDeniedException", "message": message }).to_string())
        } else if call.action.starts_with("scheduler:") {
            // AWS names the kind of error in a header; the SDKs read it from the body as well.
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

    /// Forwards it to the bed's API.
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
    record: &Mutex<Record>,
    gate: &Gate,
    answer: &Mutex<impl FnMut(&[AwsCall], &str) -> Answer>,
) {
    for mut request in server.incoming_requests() {
        let begin = Instant::now();
        let asked = Asked::read(&mut request);
        if asked.url == "/calls" {
            let times = serde_json::json!(record.lock().unwrap().times);
            let _ = request.respond(tiny_http::Response::from_string(times.to_string()));
            continue;
        }
        let calls = aws_calls(&asked.method, &asked.url, &asked.head, &asked.body);
        record.lock().unwrap().calls.extend(calls.iter().cloned());
        gate.enter();
        // The lock is not held while the bed's API works.
        let decision = (*answer.lock().unwrap())(&calls, &asked.body);
        let (status, text) = match decision {
            Answer::Forwarded => asked.forward(),
            Answer::Said(status, text) => (status, text),
            Answer::Instead(status, text) => {
                asked.forward();
                (status, text)
            }
            Answer::Denied(call) => asked.denial(&call),
        };
        record.lock().unwrap().times.push((calls[0].action.clone(), begin.elapsed().as_secs_f64()));
        let response = tiny_http::Response::from_string(text).with_status_code(status);
        gate.leave();
        let _ = request.respond(response);
    }
}
