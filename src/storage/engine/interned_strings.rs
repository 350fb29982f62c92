//! Interned strings: texts that repeat very often (user ids, event types, state keys), stored once and referred to by
//! number.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ruma::{OwnedUserId, UserId};

use crate::{
    error::{Error, Result},
    numbers::{StringNum, UserNum},
    storage::{ReadAccess, number_list, text_list},
};

/// The most texts in the cache; when there are more, the cache is cleared.
const MAX_CACHED_TEXTS: usize = 200_000;

/// A user's number and id.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct NumberedUser {
    pub user_num: UserNum,
    pub user_id: String,
}

/// The cache of interned texts. It is cheap to clone.
#[derive(Clone, Default)]
pub struct InternedStrings {
    cache: Arc<RwLock<StringCache>>,
}

#[derive(Default)]
struct StringCache {
    numbers: HashMap<Arc<str>, StringNum>,
    texts: HashMap<StringNum, Arc<str>>,
}

impl InternedStrings {
    pub(super) fn cached_number(&self, text: &str) -> Option<StringNum> {
        self.cache
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .numbers
            .get(text)
            .copied()
    }

    fn cached_text(&self, number: StringNum) -> Option<Arc<str>> {
        self.cache
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .texts
            .get(&number)
            .cloned()
    }

    pub(crate) fn cache_pairs(&self, pairs: impl IntoIterator<Item = (Arc<str>, StringNum)>) {
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.numbers.len() > MAX_CACHED_TEXTS {
            *cache = StringCache::default();
        }
        for (text, number) in pairs {
            cache.texts.insert(number, text.clone());
            cache.numbers.insert(text, number);
        }
    }

    /// Clears the cache: a batch failed, and the numbers that it gave out do not exist.
    pub(crate) fn clear_cache(&self) {
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = StringCache::default();
    }

    /// Returns the number of a text, or `None` if it was never stored.
    pub async fn find_number(
        &self,
        db: &mut impl ReadAccess,
        text: &str,
    ) -> Result<Option<StringNum>> {
        if let Some(number) = self.cached_number(text) {
            return Ok(Some(number));
        }
        let number = db
            .query("SELECT num FROM strings WHERE text = $1")
            .bind(text)
            .fetch_scalar()
            .await?;
        if let Some(number) = number {
            self.cache_pairs([(Arc::from(text), number)]);
        }
        Ok(number)
    }

    /// Returns the number of a user, or `None` if the id was never stored.
    pub async fn find_user(
        &self,
        db: &mut impl ReadAccess,
        user_id: &str,
    ) -> Result<Option<UserNum>> {
        Ok(self.find_number(db, user_id).await?.map(UserNum::of_string))
    }

    /// Returns the numbers of the given texts that are stored.
    pub async fn find_numbers(
        &self,
        db: &mut impl ReadAccess,
        texts: &[&str],
    ) -> Result<Vec<StringNum>> {
        let mut found: Vec<StringNum> = Vec::with_capacity(texts.len());
        let mut unknown = Vec::new();
        for text in texts {
            match self.cached_number(text) {
                Some(number) => found.push(number),
                None => unknown.push(*text),
            }
        }
        if !unknown.is_empty() {
            let rows: Vec<(String, StringNum)> = db
                .query(
                    "SELECT text, num FROM strings WHERE text IN (SELECT value FROM json_each($1))",
                )
                .bind(text_list(unknown))
                .fetch_all()
                .await?;
            found.extend(rows.iter().map(|(_, number)| *number));
            self.cache_pairs(
                rows.into_iter()
                    .map(|(text, number)| (Arc::from(text), number)),
            );
        }
        Ok(found)
    }

    /// Returns the numbers of the given users whose ids are stored.
    pub async fn find_users(
        &self,
        db: &mut impl ReadAccess,
        user_ids: &[&str],
    ) -> Result<Vec<UserNum>> {
        let numbers = self.find_numbers(db, user_ids).await?;
        Ok(numbers.into_iter().map(UserNum::of_string).collect())
    }

    /// Returns the texts of these numbers, in no particular order.
    pub async fn find_texts(
        &self,
        db: &mut impl ReadAccess,
        numbers: &[StringNum],
    ) -> Result<HashMap<StringNum, Arc<str>>> {
        let mut found = HashMap::with_capacity(numbers.len());
        let mut unknown = Vec::new();
        for number in numbers {
            match self.cached_text(*number) {
                Some(text) => drop(found.insert(*number, text)),
                None => unknown.push(*number),
            }
        }
        if !unknown.is_empty() {
            let rows: Vec<(StringNum, String)> = db
                .query("SELECT num, text FROM strings WHERE num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))")
                .bind(number_list(unknown))
                .fetch_all()
                .await?;
            let pairs: Vec<(Arc<str>, StringNum)> = rows
                .into_iter()
                .map(|(num, text)| (Arc::from(text), num))
                .collect();
            found.extend(pairs.iter().map(|(text, number)| (*number, text.clone())));
            self.cache_pairs(pairs);
        }
        Ok(found)
    }

    /// Returns the ids of these users, in no particular order.
    pub async fn find_user_ids(
        &self,
        db: &mut impl ReadAccess,
        users: &[UserNum],
    ) -> Result<HashMap<UserNum, Arc<str>>> {
        let numbers: Vec<StringNum> = users.iter().map(|user| user.string()).collect();
        let texts = self.find_texts(db, &numbers).await?;
        let user_ids = texts.into_iter();
        Ok(user_ids
            .map(|(number, text)| (UserNum::of_string(number), text))
            .collect())
    }

    /// Returns the id of a user.
    pub async fn user_id(&self, db: &mut impl ReadAccess, user: UserNum) -> Result<OwnedUserId> {
        let text = self.text_of(db, user.string()).await?;
        UserId::parse(&*text).map_err(|source| Error::internal("read a user id", source))
    }

    /// Returns the text of a number.
    pub async fn text_of(&self, db: &mut impl ReadAccess, number: StringNum) -> Result<Arc<str>> {
        let mut found = self.find_texts(db, &[number]).await?;
        found
            .remove(&number)
            .ok_or_else(|| Error::internal("find a stored text", format!("number {number}")))
    }
}
