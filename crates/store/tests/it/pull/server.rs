//! A registry of our own that misbehaves on demand: plain HTTP on the loopback, one request a connection.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use plywood_image::Digest;

use super::super::import_images::{LayerBlob, config, here, manifest};

/// One request, header names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Only so much of the body is sent before the connection is cut.
    pub(crate) cut_after: Option<usize>,
}

impl Response {
    pub(crate) fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new(), cut_after: None }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Response {
        Response { body: body.into(), ..Response::new(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cut(mut self, after: usize) -> Response {
        self.cut_after = Some(after);
        self
    }

    /// The whole blob, or its end if a range is asked for.
    pub(crate) fn blob(request: &Request, bytes: &[u8]) -> Response {
        let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            None => Response::ok(bytes),
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Response { body: bytes[from..].to_vec(), ..Response::new(206) }.header("Content-Range", range)
            }
            Some(_) => Response::new(416),
        }
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// A server that runs until the test's process ends.
pub(crate) struct Server {
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), handler)
    }

    /// For handlers that must know the port.
    pub(crate) fn on(
        listener: TcpListener,
        handler: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Server {
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let server = Server { port, log: log.clone() };
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, log) = (handler.clone(), log.clone());
                std::thread::spawn(move || serve(&stream.unwrap(), &*handler, &log));
            }
        });
        server
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests for blobs of this digest.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Request> {
        self.log().into_iter().filter(|request| request.path.contains(part)).collect()
    }
}

/// The client may hang up at any time: that ends the connection, nothing else.
fn serve(stream: &TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let request = Request { path, headers };
    log.lock().unwrap().push(request.clone());
    let response = handler(&request);
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", response.status);
    if !response.headers.iter().any(|(name, _)| name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    let end = response.cut_after.unwrap_or(usize::MAX).min(response.body.len());
    stream.write_all(&response.body[..end]).ok()
}

/// A one-layer image as a registry serves it.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layer: LayerBlob,
}

impl Content {
    pub(crate) fn of(layer: LayerBlob) -> Content {
        let config = config(&here(), std::slice::from_ref(&layer));
        Content { manifest: manifest(&config, std::slice::from_ref(&layer)), config, layer }
    }

    pub(crate) fn layer_digest(&self) -> String {
        Digest::sha256(&self.layer.bytes).to_string()
    }

    /// Answers as a well-behaved registry does.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        if request.path.contains("/manifests/") {
            return Response::ok(self.manifest.clone())
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
        }
        for blob in [&self.config, &self.layer.bytes] {
            if request.path.ends_with(&Digest::sha256(blob).to_string()) {
                return Response::blob(request, blob);
            }
        }
        Response::new(404)
    }

    pub(crate) fn is_layer(&self, request: &Request) -> bool {
        request.path.ends_with(&self.layer_digest())
    }
}
