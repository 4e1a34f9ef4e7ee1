//! As much of HTTP/1.1 as a store's client speaks, byte by byte, so that every way of breaking an
//! answer is at hand.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 1 << 30;

/// What a client sent.
#[derive(Debug, Clone)]
pub(super) struct HttpRequest {
    pub(super) method: String,
    /// Decoded, with its leading slash.
    pub(super) path: String,
    /// Decoded, in the order in which they came.
    pub(super) query: Vec<(String, String)>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl HttpRequest {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What it is told.
#[derive(Debug, Clone)]
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl HttpResponse {
    pub(super) fn new(status: u16) -> Self {
        HttpResponse {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn with_body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.with("Content-Type", kind)
    }

    /// Status line and headers.
    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} -\r\n", self.status);
        let announced = |name: &str| self.headers.iter().any(|(known, _)| *known == name);
        if !announced("Content-Length") && self.status != 204 && self.status != 304 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

/// One client's connection.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Connection(BufReader::new(stream))
    }

    /// The next request; none when the client has left.
    pub(super) async fn read(&mut self) -> io::Result<Option<HttpRequest>> {
        let Some(first) = self.line().await? else {
            return Ok(None);
        };
        let mut parts = first.split(' ');
        let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Only in a query a plus is a space.
            (decode(name), decode(&value.replace('+', " ")))
        };
        let mut request = HttpRequest {
            method: method.to_owned(),
            path: decode(path),
            query: pairs.map(pair).collect(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        loop {
            let line = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let name = name.to_ascii_lowercase();
            request.headers.push((name, value.trim().to_owned()));
        }
        request.body = self.body(&request).await?;
        Ok(Some(request))
    }

    async fn body(&mut self, request: &HttpRequest) -> io::Result<Bytes> {
        let coding = request.header("transfer-encoding").unwrap_or_default();
        if coding.eq_ignore_ascii_case("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let digits = line.split(';').next().unwrap_or_default();
                let bytes = usize::from_str_radix(digits, 16);
                let bytes = bytes.map_err(|_| io::ErrorKind::InvalidData)?;
                body.extend_from_slice(&self.exactly(bytes).await?);
                self.line().await?;
                if bytes == 0 {
                    return Ok(body.into());
                }
            }
        }
        let bytes = request.header("content-length").unwrap_or("0");
        let bytes = bytes.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        self.exactly(bytes).await
    }

    async fn exactly(&mut self, bytes: usize) -> io::Result<Bytes> {
        if bytes > BODY_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; bytes];
        self.0.read_exact(&mut body).await?;
        Ok(body.into())
    }

    /// A line without its end; none at the end of the stream.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.0).take(HEAD_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let text = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Sends an answer, of its body only the first `bytes`.
    pub(super) async fn write(&mut self, answer: &HttpResponse, bytes: usize) -> io::Result<()> {
        let stream = self.0.get_mut();
        stream.write_all(answer.head().as_bytes()).await?;
        let sent = answer.body.len().min(bytes);
        stream.write_all(&answer.body[..sent]).await?;
        stream.flush().await
    }

    /// Ends the connection in order, whatever was announced.
    pub(super) async fn close(mut self) {
        // Whoever has left already need not be told.
        let _ = self.0.get_mut().shutdown().await;
    }

    /// Ends the connection as a machine does that knows nothing of it.
    pub(super) fn reset(self) {
        // Without this the client sees an end in order, which is a break too.
        let _ = self.0.get_ref().set_zero_linger();
    }
}

/// Decodes `%XX`.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
