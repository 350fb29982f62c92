//! JSON as text: how deeply it is nested, and its canonical form, for any depth and any numbers.
//!
//! JSON from clients and servers is converted to this form when it is received. Raw text that is stored and passed on
//! is then valid JSON of limited depth. It has each key once, and every reader understands it in the same way. Nothing
//! here recurses: text of any depth needs only as much stack as flat text.
//!
//! See the [specification](https://spec.matrix.org/v1.19/appendices/#canonical-json).

use std::{borrow::Cow, ops::Range};

use ruma::canonical_json::CanonicalJsonObject;
use serde_json::value::RawValue;

use crate::error::{Error, RefusalCode, Result};

/// The greatest depth of JSON that a client sends, and of each EDU of another server.
///
/// The parsers of many clients and servers give up at 128 levels. On its way out, the JSON is wrapped in about twenty
/// more: in transactions, in responses to `/sync`, and where one event is bundled with another.
pub const MAX_JSON_DEPTH: usize = 100;

/// The greatest depth of an event of another server, and of each of its requests except transactions: a request can
/// wrap a client's JSON in an event, and that in an invite.
pub const MAX_SERVER_JSON_DEPTH: usize = MAX_JSON_DEPTH + 10;

/// Returns the canonical form of JSON text that is at most `max_depth` levels deep.
///
/// Keys are sorted, the last value of a duplicate key is kept, and only what must be escaped is escaped. Numbers stay
/// as they are written, fractions included: the code that signs an event refuses these.
///
/// # Errors
///
/// `RefusalCode::NotJson` when the text is not JSON, or has a number that is too large for every reader;
/// [`Error::BadJson`] when it is nested too deeply.
pub fn canonical_text(text: &[u8], max_depth: usize) -> Result<String> {
    // The parsers of requests skip what they do not need, without checking its encoding.
    let text = std::str::from_utf8(text)
        .map_err(|e| Error::refused(RefusalCode::NotJson, e.to_string()))?;
    let mut reader = JsonReader::new(text, max_depth);
    reader.read()?;
    let JsonReader {
        objects, members, ..
    } = reader;
    let document = JsonDocument {
        text,
        objects,
        members,
    };
    document.write()
}

/// Checks that JSON text is nested at most `max_depth` levels deep. Text that is not JSON passes: its parser refuses
/// it.
///
/// # Errors
///
/// [`Error::BadJson`] when it is nested more deeply.
pub fn check_depth(text: &str, max_depth: usize) -> Result<()> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max_depth {
            return Err(depth_error(max_depth));
        }
    }
    Ok(())
}

/// Returns the canonical form of an object from another server. Returns `None` if it is not an object or is nested too
/// deeply.
pub fn canonical_object(raw: &RawValue) -> Option<Box<RawValue>> {
    let text = canonical_text(raw.get().as_bytes(), MAX_JSON_DEPTH).ok()?;
    let is_object = text.starts_with('{');
    is_object.then(|| RawValue::from_string(text).ok())?
}

/// Reads an object that its owner signed, such as a key, as canonical JSON: nobody can check the signature otherwise.
///
/// # Errors
///
/// [`Error::BadJson`] or `RefusalCode::NotJson` when it is not an object, is nested too deeply, or has a number that
/// canonical JSON does not allow.
pub fn signed_object(text: &str) -> Result<CanonicalJsonObject> {
    check_depth(text, MAX_JSON_DEPTH)?;
    serde_json::from_str(text).map_err(|e| Error::BadJson(e.to_string()))
}

fn depth_error(max_depth: usize) -> Error {
    Error::BadJson(format!(
        "the JSON is nested more than {max_depth} levels deep"
    ))
}

/// The position of an object in the text.
struct ObjectSpan {
    /// The byte offsets of its braces.
    start: usize,
    end: usize,
    /// The range of its members in the list of all members: sorted, and without duplicate keys.
    members: Range<usize>,
}

struct ObjectMember<'a> {
    key: Cow<'a, str>,
    /// The range of its value in the text.
    value: Range<usize>,
}

/// A list or object that is not closed yet.
enum OpenContainer<'a> {
    List,
    Object {
        /// The index of the object.
        number: usize,
        /// The index of its first member in the list of open members.
        first_member: usize,
        /// The key whose value is read next, and the offset at which the value begins.
        pending: Option<(Cow<'a, str>, usize)>,
    },
}

/// A reader that finds the objects of a text and their members, and checks that the text is JSON.
struct JsonReader<'a> {
    text: &'a str,
    offset: usize,
    max_depth: usize,
    open: Vec<OpenContainer<'a>>,
    open_members: Vec<ObjectMember<'a>>,
    /// The objects, in the order in which they open.
    objects: Vec<ObjectSpan>,
    members: Vec<ObjectMember<'a>>,
}

impl<'a> JsonReader<'a> {
    fn new(text: &'a str, max_depth: usize) -> Self {
        Self {
            text,
            offset: 0,
            max_depth,
            open: Vec::new(),
            open_members: Vec::new(),
            objects: Vec::new(),
            members: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<()> {
        self.skip_space();
        loop {
            // A value begins here, unless the list or object is empty.
            let is_complete = self.read_value()?;
            if is_complete && self.finish_values()? {
                break;
            }
        }
        if self.offset < self.text.len() {
            return Err(self.unexpected());
        }
        Ok(())
    }

    /// Reads a scalar, or opens a list or object. Returns whether a value is complete.
    fn read_value(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b'{') => self.open_object(),
            Some(b'[') => self.open_list(),
            Some(b'"') => self.read_string().map(|_| true),
            Some(b't') => self.read_word("true"),
            Some(b'f') => self.read_word("false"),
            Some(b'n') => self.read_word("null"),
            _ => self.read_number().map(|()| true),
        }
    }

    fn open_list(&mut self) -> Result<bool> {
        self.push(OpenContainer::List)?;
        self.advance();
        if self.peek() == Some(b']') {
            self.close_list();
            return Ok(true);
        }
        Ok(false)
    }

    fn open_object(&mut self) -> Result<bool> {
        let number = self.objects.len();
        self.push(OpenContainer::Object {
            number,
            first_member: self.open_members.len(),
            pending: None,
        })?;
        self.objects.push(ObjectSpan {
            start: self.offset,
            end: self.offset,
            members: 0..0,
        });
        self.advance();
        if self.peek() == Some(b'}') {
            self.close_object();
            return Ok(true);
        }
        self.read_key()?;
        Ok(false)
    }

    fn push(&mut self, container: OpenContainer<'a>) -> Result<()> {
        if self.open.len() >= self.max_depth {
            return Err(depth_error(self.max_depth));
        }
        self.open.push(container);
        Ok(())
    }

    fn read_key(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let key = self.read_string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.advance();
        let begins = self.offset;
        if let Some(OpenContainer::Object { pending, .. }) = self.open.last_mut() {
            *pending = Some((key, begins));
        }
        Ok(())
    }

    /// Continues after a complete value, and closes the lists and objects that end with it. Returns whether the whole
    /// text is complete.
    fn finish_values(&mut self) -> Result<bool> {
        loop {
            let ends = self.offset;
            if let Some(OpenContainer::Object { pending, .. }) = self.open.last_mut()
                && let Some((key, begins)) = pending.take()
            {
                let value = begins..ends;
                self.open_members.push(ObjectMember { key, value });
            }
            self.skip_space();
            match (self.open.last(), self.peek()) {
                (None, _) => return Ok(true),
                (Some(OpenContainer::List), Some(b',')) => {
                    self.advance();
                    return Ok(false);
                }
                (Some(OpenContainer::Object { .. }), Some(b',')) => {
                    self.advance();
                    self.read_key()?;
                    return Ok(false);
                }
                (Some(OpenContainer::List), Some(b']')) => self.close_list(),
                (Some(OpenContainer::Object { .. }), Some(b'}')) => self.close_object(),
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn close_list(&mut self) {
        self.open.pop();
        self.offset += 1;
    }

    fn close_object(&mut self) {
        if let Some(OpenContainer::Object {
            number,
            first_member,
            ..
        }) = self.open.pop()
        {
            let mut members = self.open_members.split_off(first_member);
            // The sort keeps the order of equal keys, of which the last one counts.
            members.reverse();
            members.sort_by(|a, b| a.key.cmp(&b.key));
            members.dedup_by(|a, b| a.key == b.key);
            let first = self.members.len();
            self.members.extend(members);
            if let Some(object) = self.objects.get_mut(number) {
                object.end = self.offset;
                object.members = first..self.members.len();
            }
        }
        self.offset += 1;
    }

    fn read_string(&mut self) -> Result<Cow<'a, str>> {
        let literal = string_literal(self.remaining_text()).ok_or_else(|| self.unexpected())?;
        let string = unescaped(literal).map_err(|()| self.unexpected())?;
        self.offset += literal.len();
        Ok(string)
    }

    fn read_word(&mut self, word: &str) -> Result<bool> {
        if !self.remaining_text().starts_with(word) {
            return Err(self.unexpected());
        }
        self.offset += word.len();
        Ok(true)
    }

    fn read_number(&mut self) -> Result<()> {
        let rest = self.remaining_text();
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let number = rest.get(..length).unwrap_or_default();
        // Readers disagree about numbers that are larger than any floating-point number.
        let is_valid = serde_json::from_str::<f64>(number).is_ok();
        if !is_valid {
            return Err(self.unexpected());
        }
        self.offset += length;
        Ok(())
    }

    fn remaining_text(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    /// Skips one character and the space after it.
    fn advance(&mut self) {
        self.offset += 1;
        self.skip_space();
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.offset += 1;
        }
    }

    fn unexpected(&self) -> Error {
        Error::refused(
            RefusalCode::NotJson,
            match self.peek() {
                Some(_) => format!("the text is not JSON at byte {}", self.offset),
                None => "the JSON is not complete".to_owned(),
            },
        )
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Returns the string at the start of a text, with its quotes.
fn string_literal(text: &str) -> Option<&str> {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return text.get(..=at),
            _ => {}
        }
    }
    None
}

/// Returns the value of a string literal.
fn unescaped(literal: &str) -> Result<Cow<'_, str>, ()> {
    let inner = literal.get(1..literal.len().saturating_sub(1));
    let is_plain = |byte: u8| byte >= b' ' && byte != b'\\';
    match inner {
        Some(inner) if inner.bytes().all(is_plain) => Ok(Cow::Borrowed(inner)),
        _ => serde_json::from_str(literal)
            .map(Cow::Owned)
            .map_err(|_| ()),
    }
}

/// A text with the objects that were found in it.
struct JsonDocument<'a> {
    text: &'a str,
    objects: Vec<ObjectSpan>,
    members: Vec<ObjectMember<'a>>,
}

/// A part of the canonical form that is not written yet.
enum UnwrittenPart {
    Text(Range<usize>),
    Members { object: usize, next: usize },
}

impl JsonDocument<'_> {
    fn write(&self) -> Result<String> {
        let mut out = String::with_capacity(self.text.len());
        let mut parts = vec![UnwrittenPart::Text(0..self.text.len())];
        while let Some(part) = parts.pop() {
            match part {
                UnwrittenPart::Text(range) => self.write_text(range, &mut parts, &mut out)?,
                UnwrittenPart::Members { object, next } => {
                    self.write_member(object, next, &mut parts, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    /// Writes text up to the next object, and queues the object and the rest.
    fn write_text(
        &self,
        range: Range<usize>,
        parts: &mut Vec<UnwrittenPart>,
        out: &mut String,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let rest = self.text.get(at..range.end).unwrap_or_default();
            match rest.as_bytes().first() {
                Some(b'"') => {
                    let literal = string_literal(rest).unwrap_or(rest);
                    write_string(&unescaped(literal).unwrap_or_default(), out)?;
                    at += literal.len();
                }
                Some(b'{') => {
                    let found = self.objects.binary_search_by(|o| o.start.cmp(&at));
                    let object = found.unwrap_or_default();
                    let closes = self.objects.get(object).map_or(at, |o| o.end);
                    parts.push(UnwrittenPart::Text(closes + 1..range.end));
                    parts.push(UnwrittenPart::Members { object, next: 0 });
                    return Ok(());
                }
                Some(byte) if is_space(*byte) => at += 1,
                Some(byte) => {
                    // Everything outside strings, other than space, is ASCII.
                    out.push(char::from(*byte));
                    at += 1;
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn write_member(
        &self,
        object: usize,
        next: usize,
        parts: &mut Vec<UnwrittenPart>,
        out: &mut String,
    ) -> Result<()> {
        if next == 0 {
            out.push('{');
        }
        let members = self.objects.get(object).map(|o| o.members.clone());
        let members = members.and_then(|members| self.members.get(members));
        let Some(member) = members.and_then(|members| members.get(next)) else {
            out.push('}');
            return Ok(());
        };
        if next > 0 {
            out.push(',');
        }
        write_string(&member.key, out)?;
        out.push(':');
        let next = next + 1;
        parts.push(UnwrittenPart::Members { object, next });
        parts.push(UnwrittenPart::Text(member.value.clone()));
        Ok(())
    }
}

fn write_string(text: &str, out: &mut String) -> Result<()> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
