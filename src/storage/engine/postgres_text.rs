//! Texts for PostgreSQL, which accepts every character except U+0000.

use std::borrow::Cow;

use sqlx::{
    Encode, Postgres, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo},
};

/// The replacement for U+0000 in stored texts and queries: U+001A, whose name is SUBSTITUTE.
const NUL_SUBSTITUTE: u8 = 0x1a;

/// Returns a text in the form in which PostgreSQL stores it.
pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', &char::from(NUL_SUBSTITUTE).to_string()))
    } else {
        Cow::Borrowed(text)
    }
}

/// A value in which U+0000, if it is a text, becomes [`NUL_SUBSTITUTE`].
///
/// A text with U+0000 comes from a client or server that tries out what happens. The stored text may then look odd, but
/// no statement may fail because of it: that would also stop everything else in the same write or query.
pub(crate) struct WithoutNul<T>(pub(crate) T);

impl<T: Type<Postgres>> Type<Postgres> for WithoutNul<T> {
    fn type_info() -> PgTypeInfo {
        T::type_info()
    }

    fn compatible(info: &PgTypeInfo) -> bool {
        T::compatible(info)
    }
}

impl<'q, T: Encode<'q, Postgres> + Type<Postgres>> Encode<'q, Postgres> for WithoutNul<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let start = buffer.len();
        let is_null = self.0.encode_by_ref(buffer)?;
        if T::type_info() == <str as Type<Postgres>>::type_info() {
            for byte in buffer.iter_mut().skip(start).filter(|byte| **byte == 0) {
                // One byte replaces one byte, since the length is already written.
                *byte = NUL_SUBSTITUTE;
            }
        }
        Ok(is_null)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        self.0.produces()
    }

    fn size_hint(&self) -> usize {
        self.0.size_hint()
    }
}

/// Texts as one parameter: a JSON array that `json_each($n)` unpacks.
#[derive(Clone, Debug)]
pub struct TextList {
    json: String,
    /// The same without U+0000, if it has any.
    json_without_nul: Option<String>,
}

/// Returns a list parameter: a JSON array that `json_each($n)` unpacks into texts.
pub fn text_list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> TextList {
    use serde_json::Value;

    let items: Vec<Value> = items.into_iter().map(|item| item.as_ref().into()).collect();
    let has_nul = |item: &Value| item.as_str().is_some_and(|text| text.contains('\0'));
    let json_without_nul = items.iter().any(has_nul).then(|| {
        let texts = items.iter().filter_map(Value::as_str);
        let texts = texts.map(|text| without_nul(text).into());
        Value::Array(texts.collect()).to_string()
    });
    TextList {
        json: Value::Array(items).to_string(),
        json_without_nul,
    }
}

impl Default for TextList {
    fn default() -> Self {
        text_list::<&str>([])
    }
}

impl Type<Sqlite> for TextList {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for TextList {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.json.clone(), buffer)
    }
}

impl Type<Postgres> for TextList {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for TextList {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let json = self.json_without_nul.as_ref().unwrap_or(&self.json);
        Encode::<Postgres>::encode_by_ref(json, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::StringNum,
        storage::{ReadAccess, testing::TestDb},
    };

    #[tokio::test]
    async fn no_character_makes_a_statement_fail() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for text in ["a\0b", "\0", "\u{1a}", "\u{ffff}", "plain"] {
            let num = tx.intern(text).await.unwrap();

            assert_eq!(tx.intern(text).await.unwrap(), num, "{text:?}");
            let found: Vec<StringNum> = tx
                .query("SELECT num FROM strings WHERE text = $1")
                .bind(Some(text.to_owned()))
                .fetch_scalars()
                .await
                .unwrap();
            assert_eq!(found, [num], "{text:?}");
            let found: Vec<StringNum> = tx
                .query("SELECT num FROM strings WHERE text IN (SELECT value FROM json_each($1))")
                .bind(text_list([text]))
                .fetch_scalars()
                .await
                .unwrap();
            assert_eq!(found, [num], "{text:?} in a list");
        }
    }

    #[test]
    fn a_list_is_a_json_array() {
        assert_eq!(text_list(["a", "b\"c"]).json, r#"["a","b\"c"]"#);
    }

    #[tokio::test]
    async fn numbers_are_bound_without_changes() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let number: Option<StringNum> = tx
            .query("SELECT $1 + 1")
            .bind(256_i64)
            .fetch_scalar()
            .await
            .unwrap();
        assert_eq!(number, Some(StringNum::new(257)));
    }
}
