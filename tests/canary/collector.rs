//! A collector of traces, as OpenTelemetry's is reached: OTLP over HTTP.

use crate::listen::Heard;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// All that came.
#[derive(Clone, Default)]
pub struct Collector {
    /// As it came.
    pub heard: Heard,
    /// Service and span.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

impl Collector {
    /// One that lives as long as the process; its address.
    pub fn start() -> (Collector, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free address");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let collector = Collector::default();
        let of_thread = collector.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                of_thread.serve(&client);
            }
        });
        (collector, address)
    }

    fn serve(&self, mut client: &TcpStream) {
        let mut reader = BufReader::new(client);
        let (mut line, mut length, mut head) = (String::new(), 0, String::new());
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            head += &std::mem::take(&mut line);
        }
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let sent = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
        let mut spans = self.spans.lock().expect("not poisoned");
        for of in sent.resource_spans {
            let attributes = of.resource.expect("a resource").attributes;
            let service = attributes.iter().find(|attribute| attribute.key == "service.name").expect("a name");
            let service = format!("{:?}", service.value);
            let all = of.scope_spans.into_iter().flat_map(|of| of.spans);
            spans.extend(all.map(|span| (service.clone(), span)));
        }
        drop(spans);
        self.heard.lock().expect("not poisoned").extend([head.as_bytes(), &body].concat());
        write!(client, "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .expect("the exporter waits");
    }

    /// Whether some click's trace goes from the redirect server through the job to each of these calls of HubSpot's.
    pub fn whole(&self, calls: &[&str]) -> bool {
        let spans = self.spans.lock().expect("not poisoned");
        let of = |service: &str, name: &str| {
            let service = format!("\"{service}\"");
            spans.iter().filter(|(by, span)| by.contains(&service) && span.name == name).map(|(_, span)| span).collect::<Vec<_>>()
        };
        let follow = |span: &Span, before: &Span| {
            span.trace_id == before.trace_id
                && span.parent_span_id == before.span_id
                && span.end_time_unix_nano >= span.start_time_unix_nano
        };
        of("clickline-redirect", "redirect").into_iter().filter(|first| first.parent_span_id.is_empty()).any(|first| {
            of("clickline", "resolve")
                .into_iter()
                .filter(|span| follow(span, first))
                .any(|resolve| calls.iter().all(|call| of("clickline", call).into_iter().any(|span| follow(span, resolve))))
        })
    }

    /// The names of all spans, for a message.
    pub fn names(&self) -> Vec<(String, String)> {
        self.spans.lock().expect("not poisoned").iter().map(|(service, span)| (service.clone(), span.name.clone())).collect()
    }
}
