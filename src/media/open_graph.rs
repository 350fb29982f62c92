//! Reads the Open Graph properties (<https://ogp.me>) of a web page.

use std::collections::BTreeMap;

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

/// The longest value that is kept, in characters.
const MAX_VALUE_CHARS: usize = 1_000;
/// The longest property name that is kept, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The number of properties that are kept of a page.
const MAX_PROPERTIES: usize = 20;

/// The properties of a page: `og:title`, `og:description` and so on.
pub(super) type PageProperties = BTreeMap<String, String>;

/// Reads a page. Without Open Graph properties its title and description are used instead.
pub(super) fn read_properties(html: &str) -> PageProperties {
    let mut found = PageProperties::new();
    let mut title = String::new();
    let mut is_in_title = false;
    let mut emitter = DefaultEmitter::<()>::default();
    // Without this, the content of scripts would be parsed as a part of the page.
    emitter.naively_switch_states(true);
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) if *tag.name == *b"title" => is_in_title = title.is_empty(),
            Token::StartTag(tag) if *tag.name == *b"meta" => add_property(&tag, &mut found),
            Token::EndTag(tag) if *tag.name == *b"title" => is_in_title = false,
            Token::String(text) if is_in_title => title.push_str(&String::from_utf8_lossy(&text)),
            _ => {}
        }
    }
    let described = found.remove("description");
    for (property, value) in [("og:title", Some(title)), ("og:description", described)] {
        let value = value.map(|value| clean_text(&value));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            found.entry(property.to_owned()).or_insert(value);
        }
    }
    found
}

/// Adds the property of a `meta` element. The first of several counts.
fn add_property(tag: &StartTag<()>, found: &mut PageProperties) {
    let attribute = |name: &[u8]| {
        let value = tag.attributes.get(name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let property = attribute(b"property").or_else(|| attribute(b"name"));
    let (Some(property), Some(value)) = (property, attribute(b"content")) else {
        return;
    };
    let property = property.trim().to_lowercase();
    let property = match property.strip_prefix("twitter:") {
        Some(name @ ("title" | "description" | "image")) => format!("og:{name}"),
        _ => property,
    };
    let value = clean_text(&value);
    let is_wanted = property == "description" || property.starts_with("og:");
    let is_named = is_wanted && property.len() <= MAX_NAME_BYTES;
    if is_named && !value.is_empty() && found.len() < MAX_PROPERTIES {
        found.entry(property).or_insert(value);
    }
}

/// Returns a text with normalized white space, shortened to the limit.
fn clean_text(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_VALUE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_graph_takes_precedence_over_the_title() {
        let found = read_properties(
            r#"<html><head><title>The page</title>
               <meta property="og:title" content="The &amp; title"><meta name="description" content=" a
               b ">
               <meta property="og:image" content="/a.png"></head></html>"#,
        );

        assert_eq!(found["og:title"], "The & title");
        assert_eq!(found["og:description"], "a b");
        assert_eq!(found["og:image"], "/a.png");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_page_without_open_graph_has_its_title() {
        let found = read_properties("<title>One\n two</title><svg><title>no</title></svg><p>Text");

        assert_eq!(found["og:title"], "One two");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn text_in_scripts_is_ignored() {
        let found = read_properties(r#"<script>"<meta property='og:title' content='x'>"</script>"#);

        assert!(found.is_empty());
    }

    #[test]
    fn malformed_pages_are_read_as_far_as_possible() {
        let found = read_properties(
            "<meta property=og:title content='x'><title>unended <meta <<< \u{0} &#xD800;",
        );

        assert_eq!(found["og:title"], "x");
        let long = format!("<title>{}</title>", "x".repeat(10_000));
        assert_eq!(read_properties(&long)["og:title"].len(), MAX_VALUE_CHARS);
    }
    #[test]
    fn long_values_and_excess_properties_are_dropped() {
        let meta = |name: &str| format!("<meta property='og:{name}' content='x'>");
        let long = read_properties(&meta(&"x".repeat(MAX_NAME_BYTES)));
        let many: String = (0..100).map(|n| meta(&n.to_string())).collect();

        assert!(long.is_empty());
        assert_eq!(read_properties(&many).len(), MAX_PROPERTIES);
    }
}
