//! What a request is called in logs, to its backend and to its client: by us, or by a proxy that is trusted.

use http::HeaderValue;

/// The id of one request. One of ours is held in place: every request has one and hands it on.
#[derive(Clone, Debug)]
pub struct RequestId(Text);

#[derive(Clone, Debug)]
enum Text {
    Own([u8; OWN_BYTES]),
    Given(HeaderValue),
}

impl RequestId {
    /// One of ours, of digits, letters and hyphens.
    #[must_use]
    pub fn own(text: [u8; OWN_BYTES]) -> RequestId {
        RequestId(Text::Own(text))
    }

    /// One that came with its request: 1 to 128 letters, digits and `. _ -`. `None` for any other text, which could say more than an id where it is written.
    #[must_use]
    pub fn given(text: &HeaderValue) -> Option<RequestId> {
        let bytes = text.as_bytes();
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let fits = (1..=GIVEN_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(allowed);
        fits.then(|| RequestId(Text::Given(text.clone())))
    }

    /// As it is written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Own(text) => text,
            Text::Given(text) => text.as_bytes(),
        }
    }

    /// The same as text; empty where it is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// As a field's value. Not secret, but never seen again: HTTP/2 would push one useful field after another out of its compression table for it.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        let mut value = match &self.0 {
            Text::Own(text) => {
                HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-"))
            }
            Text::Given(text) => text.clone(),
        };
        value.set_sensitive(true);
        value
    }
}

/// Of a UUID (RFC 9562 section 4).
pub const OWN_BYTES: usize = 36;
/// Of an id that a proxy gives.
pub const GIVEN_BYTES_MAX: usize = 128;
