//! A request as the bytes a test sends, and an answer as the bytes it got.

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` …
    pub method: String,
    /// The target, sent as it is.
    pub target: String,
    /// In the order they are sent; `Host` comes first unless [`Request::without_host`] was called.
    pub headers: Vec<(String, String)>,
    /// The body; with one, `Content-Length` is added.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// A request to `localhost`.
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), "localhost".to_owned())],
            body: None,
        }
    }

    /// `GET` of this target.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// Without any `Host`.
    pub fn without_host(mut self) -> Request {
        self.headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        self
    }

    /// To this host instead.
    pub fn host(self, host: &str) -> Request {
        let mut request = self.without_host();
        request
            .headers
            .insert(0, ("Host".to_owned(), host.to_owned()));
        request
    }

    /// With this key as a bearer credential.
    pub fn bearer(self, key: &str) -> Request {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Some(body.into());
        self
    }

    /// The head and body as they go over HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// An answer as it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values in order, duplicates kept.
    pub headers: Vec<(String, String)>,
    /// The body, its framing taken off.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Codes of the interim answers before it.
    pub interim: Vec<u16>,
    /// Whether it ended as its framing promised; `false` when it was cut.
    pub complete: bool,
}

impl Answer {
    /// All values of headers with this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of a header that must stand there exactly once.
    #[track_caller]
    pub fn one(&self, name: &str) -> &str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name} once in {self:#?}");
        values[0]
    }

    /// The same, as a number.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        self.one(name).parse().unwrap_or_else(|_| {
            panic!("{name} is a number: {:?}", self.all(name));
        })
    }

    /// Whether there is such a header at all.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Fails, showing everything, unless the status is this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Answer {
        assert_eq!(
            self.status,
            status,
            "{:#?}\nbody: {}",
            self.headers,
            self.text()
        );
        self
    }
}
