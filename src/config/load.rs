//! Reads the configuration from its sources, and reports what is wrong with it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{
    Config, ProviderSection, mail::MissingMailKey, oauth::WrongOAuthKey, rtc::MissingRtcKey,
};

/// The prefix of environment variables that set a key.
const VARIABLE_PREFIX: &str = "PARLOUR__";
/// The keys whose values are not shown in messages.
const SECRET_KEYS: [&str; 5] = [
    "database.url",
    "registration.shared_secret",
    "mail.smtp_password",
    "turn.shared_secret",
    "rtc.secret",
];
/// The allowed values for keys whose type gives no good message: the end of the key, and the text.
const ALLOWED_VALUES: [(&str, &str); 3] = [
    (
        ".address",
        "expected an IP address and a port, like `127.0.0.1:8008`",
    ),
    (
        "server.name",
        "expected a host name or IP address, like `example.org` or `localhost:8448`",
    ),
    (
        ".admin_matrix_id",
        "expected a user id, like `@admin:example.org`",
    ),
];

/// The reason why the configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is not TOML.
    #[error("{file}: {source}")]
    Syntax {
        file: String,
        /// The place in the file, and the reason.
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, or its value is not allowed.
    #[error("{0}")]
    Wrong(String),
}

/// An environment variable that sets a key.
#[derive(Clone, Debug)]
pub struct ConfigVariable {
    pub name: String,
    pub value: String,
}

impl Config {
    /// Reads `file`, if given, and the environment.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a key or value is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let variables = parlour_variables()?;
        let Some(path) = file else {
            return Self::from_sources("", "", variables);
        };
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_sources(&path.display().to_string(), &text, variables)
    }

    /// Reads the text of a file and then the environment variables. `file` is its name in messages.
    ///
    /// # Errors
    ///
    /// When a key or value is wrong.
    pub fn from_sources(
        file: &str,
        text: &str,
        mut variables: Vec<ConfigVariable>,
    ) -> Result<Self, ConfigError> {
        let mut table: Table = text.parse().map_err(|source| ConfigError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        // A whole list must precede its items, and item 9 must precede item 10.
        variables.sort_by_key(|variable| (variable.name.len(), variable.name.clone()));
        let mut origins = BTreeMap::new();
        for ConfigVariable { name, value } in variables {
            let key = set_from_variable(&mut table, &name, &value)?;
            origins.insert(key, name);
        }
        let origin = |key: &str| origins.get(key).map_or(file, String::as_str);
        let root = Value::Table(table);
        let config: Self = serde_path_to_error::deserialize(root.clone()).map_err(|error| {
            let (key, value) = locate_key(&root, error.path());
            invalid_value_error(origin(&key), &key, value, error.inner().message())
        })?;
        config.check(origin)?;
        Ok(config)
    }

    /// Checks rules that concern several keys.
    fn check<'a>(&self, origin: impl Fn(&str) -> &'a str) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            let origin = origin("listen");
            return Err(ConfigError::Wrong(format!(
                "{origin}: listen = []: expected at least one [[listen]] with an address"
            )));
        }
        for (index, listen) in self.listen.iter().enumerate() {
            let (set, missing) = match (&listen.tls_certificate, &listen.tls_key) {
                (Some(_), None) => ("tls_certificate", "tls_key"),
                (None, Some(_)) => ("tls_key", "tls_certificate"),
                (Some(_), Some(_)) | (None, None) => continue,
            };
            let origin = origin(&format!("listen[{index}].{set}"));
            return Err(ConfigError::Wrong(format!(
                "{origin}: listen[{index}].{missing} is not set, but {set} is: expected both or neither"
            )));
        }
        if self.registration.require_email && self.mail.smtp_host.is_none() {
            let origin = origin("registration.require_email");
            return Err(ConfigError::Wrong(format!(
                "{origin}: mail.smtp_host is not set, but registration.require_email needs e-mail"
            )));
        }
        if let Some(MissingMailKey { missing, set }) = self.mail.missing_key() {
            let origin = origin(set);
            return Err(ConfigError::Wrong(format!(
                "{origin}: {missing} is not set, but {set} is: expected both or neither"
            )));
        }
        if let Some(MissingRtcKey { missing, set }) = self.rtc.missing_key() {
            let origin = origin(set);
            return Err(ConfigError::Wrong(format!(
                "{origin}: {missing} is not set, but {set} is: expected all keys of [rtc] or none"
            )));
        }
        if let Some(WrongOAuthKey { key, reason }) = self.oauth.wrong_key() {
            let origin = origin(&key);
            return Err(ConfigError::Wrong(format!("{origin}: {key}: {reason}")));
        }
        Ok(())
    }
}

/// Returns the environment variables that set keys.
fn parlour_variables() -> Result<Vec<ConfigVariable>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name
            .to_str()
            .filter(|name| name.starts_with(VARIABLE_PREFIX))
        else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| ConfigError::Wrong(format!("{name}: expected UTF-8")))?;
        found.push(ConfigVariable {
            name: name.to_owned(),
            value,
        });
    }
    Ok(found)
}

/// Writes the value of an environment variable into the table, and returns the key that it sets.
fn set_from_variable(table: &mut Table, name: &str, text: &str) -> Result<String, ConfigError> {
    let defaults = Table::try_from(Config::default())
        .map_err(|e| ConfigError::Wrong(format!("the defaults cannot be written: {e}")))?;
    let key = name
        .strip_prefix(VARIABLE_PREFIX)
        .unwrap_or(name)
        .to_lowercase();
    let parts: Vec<&str> = key.split("__").collect();
    match parts.as_slice() {
        ["listen"] => {
            table.insert(
                "listen".to_owned(),
                parse_like_default(&Value::Array(vec![]), text),
            );
            Ok("listen".to_owned())
        }
        ["listen", index, key] => {
            let default = defaults
                .get("listen")
                .and_then(|listen| listen.get(0))
                .and_then(|listen| listen.get(key));
            let default = default.ok_or_else(|| unknown_key_error(name, &defaults, "listen"))?;
            let listeners = list_item_table(table, "listen", name, index)?;
            listeners.insert((*key).to_owned(), parse_like_default(default, text));
            Ok(format!("listen[{index}].{key}"))
        }
        ["oauth", "providers", index, key] => {
            let defaults = Table::try_from(ProviderSection::default())
                .map_err(|e| ConfigError::Wrong(format!("the defaults cannot be written: {e}")))?;
            let default = defaults.get(*key).ok_or_else(|| {
                let keys = key_names(&defaults);
                ConfigError::Wrong(format!(
                    "{name}: unknown key; the keys of oauth.providers are {keys}"
                ))
            })?;
            let provider = match section_table(table, "oauth") {
                Some(oauth) => list_item_table(oauth, "providers", name, index)?,
                None => {
                    return Err(ConfigError::Wrong(format!(
                        "{name}: oauth is not a section"
                    )));
                }
            };
            provider.insert((*key).to_owned(), parse_like_default(default, text));
            Ok(format!("oauth.providers[{index}].{key}"))
        }
        [section, key] => {
            let default = defaults.get(*section).and_then(|keys| keys.get(key));
            let default = default.ok_or_else(|| unknown_key_error(name, &defaults, section))?;
            if let Some(keys) = section_table(table, section) {
                keys.insert((*key).to_owned(), parse_like_default(default, text));
            }
            Ok(format!("{section}.{key}"))
        }
        _ => Err(unknown_key_error(name, &defaults, "")),
    }
}

/// Returns the table of a section, if it is one.
fn section_table<'t>(table: &'t mut Table, section: &str) -> Option<&'t mut Table> {
    let keys = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    keys.as_table_mut()
}

/// Returns the table of the item of a list with this index, which may be one past the last.
fn list_item_table<'t>(
    table: &'t mut Table,
    list: &str,
    name: &str,
    index: &str,
) -> Result<&'t mut Table, ConfigError> {
    let items = table.entry(list).or_insert_with(|| Value::Array(vec![]));
    let Value::Array(items) = items else {
        return Err(ConfigError::Wrong(format!("{name}: {list} is not a list")));
    };
    let count = items.len();
    let index: usize = index.parse().unwrap_or(usize::MAX);
    if index == count {
        items.push(Value::Table(Table::new()));
    }
    let item = match list {
        "listen" => "listener",
        _ => "provider",
    };
    match items.get_mut(index) {
        Some(Value::Table(item)) => Ok(item),
        _ => Err(ConfigError::Wrong(format!(
            "{name}: expected the number of a {item} from 0 to {count}"
        ))),
    }
}

fn key_names(table: &Table) -> String {
    let mut names: Vec<&str> = table.keys().map(String::as_str).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Reads the text of a variable as the type of the default value. Other text remains text, so that the error message is
/// the same as for a file.
fn parse_like_default(default: &Value, text: &str) -> Value {
    let as_toml = || {
        let table: Option<Table> = format!("value = {text}").parse().ok();
        table.and_then(|mut table| table.remove("value"))
    };
    let as_text = || Value::String(text.to_owned());
    match default {
        Value::String(_) => as_text(),
        Value::Array(_) if !text.trim_start().starts_with('[') => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        _ => as_toml().unwrap_or_else(as_text),
    }
}

fn unknown_key_error(name: &str, defaults: &Table, section: &str) -> ConfigError {
    let keys = match defaults.get(section) {
        Some(Value::Table(keys)) => Some(key_names(keys)),
        Some(Value::Array(lists)) => lists.first().and_then(Value::as_table).map(key_names),
        _ => None,
    };
    ConfigError::Wrong(match keys {
        Some(keys) if section == "listen" => format!(
            "{name}: unknown key; expected PARLOUR__LISTEN__<number>__<key>, and the keys of listen are {keys}"
        ),
        Some(keys) => format!("{name}: unknown key; the keys of {section} are {keys}"),
        None => format!(
            "{name}: unknown key; the sections are {}",
            key_names(defaults)
        ),
    })
}

/// Returns the key at which reading failed, in the form in which people write it, and its value.
fn locate_key<'v>(
    root: &'v Value,
    path: &serde_path_to_error::Path,
) -> (String, Option<&'v Value>) {
    let (mut key, mut value) = (String::new(), Some(root));
    for segment in path {
        match segment {
            Segment::Map { key: name } => {
                key.push_str(if key.is_empty() { "" } else { "." });
                key.push_str(name);
                value = value.and_then(|value| value.get(name));
            }
            Segment::Seq { index } => {
                key = format!("{key}[{index}]");
                value = value.and_then(|value| value.get(*index));
            }
            // The values of keys are not nested: a deeper path still belongs to the same key.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    (key, value)
}

/// Returns the error with the wrong key, its value and the allowed values.
fn invalid_value_error(
    origin: &str,
    key: &str,
    value: Option<&Value>,
    message: &str,
) -> ConfigError {
    let allowed = ALLOWED_VALUES.iter().find(|(end, _)| key.ends_with(end));
    let allowed = match (message.find("expected "), allowed) {
        (_, Some((_, allowed))) if !message.starts_with("unknown field") => allowed,
        (Some(at), _) => message.get(at..).unwrap_or(message),
        (None, _) => message,
    };
    let allowed = match allowed {
        "expected a sequence" => "expected a list",
        text if text.starts_with("expected struct") => "expected a section with keys",
        text => text,
    };
    if message.starts_with("unknown field") {
        return ConfigError::Wrong(format!("{origin}: unknown key {key}: {allowed}"));
    }
    let value = match value {
        Some(_) if SECRET_KEYS.contains(&key) || key.ends_with(".client_secret") => "…".to_owned(),
        Some(Value::Table(_)) | None => "{…}".to_owned(),
        Some(value) => value.to_string(),
    };
    ConfigError::Wrong(format!("{origin}: {key} = {value}: {allowed}"))
}

#[cfg(test)]
mod tests;
