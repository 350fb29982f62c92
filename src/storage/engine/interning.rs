//! The storing of interned strings in a write.

use std::collections::HashMap;

use super::{journal::WriteTx, postgres_text::without_nul};
use crate::{
    error::{Error, Result},
    numbers::{StringNum, UserNum},
    storage::{ReadAccess, text_list},
};

/// The number of texts that one statement stores.
const TEXTS_PER_STATEMENT: usize = 500;

impl WriteTx {
    /// Returns the numbers of texts, and stores those that are new.
    pub async fn intern_all(&mut self, texts: &[&str]) -> Result<HashMap<String, StringNum>> {
        let mut numbers = HashMap::with_capacity(texts.len());
        let mut unknown = Vec::new();
        for text in texts {
            match self
                .strings()
                .cached_number(text)
                .or_else(|| self.interned_number(text))
            {
                Some(number) => drop(numbers.insert((*text).to_owned(), number)),
                None => unknown.push(*text),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        for chunk in unknown.chunks(TEXTS_PER_STATEMENT) {
            self.query(
                "INSERT INTO strings (text)
                 SELECT DISTINCT value FROM json_each($1)
                 WHERE NOT EXISTS (SELECT 1 FROM strings s WHERE s.text = value)",
            )
            .bind(text_list(chunk))
            .execute()
            .await?;
            let rows: Vec<(String, StringNum)> = self
                .query(
                    "SELECT text, num FROM strings WHERE text IN (SELECT value FROM json_each($1))",
                )
                .bind(text_list(chunk))
                .fetch_all()
                .await?;
            let rows: HashMap<String, StringNum> = rows.into_iter().collect();
            for text in chunk {
                let number = rows.get(*text).or_else(|| rows.get(&*without_nul(text)));
                let number = number
                    .ok_or_else(|| Error::internal("intern texts", "a text has no number"))?;
                self.record_interned(text, *number);
                numbers.insert((*text).to_owned(), *number);
            }
        }
        Ok(numbers)
    }

    /// Returns the number of a text, and stores the text if it is new.
    pub async fn intern(&mut self, text: &str) -> Result<StringNum> {
        if let Some(number) = self
            .strings()
            .cached_number(text)
            .or_else(|| self.interned_number(text))
        {
            return Ok(number);
        }
        let inserted = self
            .query("INSERT INTO strings (text) VALUES ($1) ON CONFLICT (text) DO NOTHING RETURNING num")
            .bind(text)
            .fetch_scalar::<StringNum>()
            .await?;
        let number = match inserted {
            Some(number) => number,
            None => self
                .query("SELECT num FROM strings WHERE text = $1")
                .bind(text)
                .fetch_scalar()
                .await?
                .ok_or_else(|| Error::internal("intern a text", "the text has no number"))?,
        };
        self.record_interned(text, number);
        Ok(number)
    }

    /// Returns the number of a user, and stores the user id if it is new.
    pub async fn intern_user(&mut self, user_id: &str) -> Result<UserNum> {
        Ok(UserNum::of_string(self.intern(user_id).await?))
    }
}
