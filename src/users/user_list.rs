//! The list of this server's users, sorted by name.

use ruma::{
    OwnedMxcUri, OwnedUserId, UserId,
    serde::{Base64, base64::UrlSafe},
};

use super::{Session, UserEnvironment, check_text};
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db,
        users::user_directory::{self, ListedUserRow, UserListQuery},
    },
};

/// A user number that no user has.
const UNUSED_USER_NUM: UserNum = UserNum::new(0);
/// The number of users on a page when the client sets no limit, and the largest limit.
const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 500;
/// The longest search text, in bytes.
const MAX_TERM_BYTES: usize = 255;
/// The longest page token, in bytes.
const MAX_TOKEN_BYTES: usize = 2_048;
/// The number of accounts that get their list key in one transaction.
const ACCOUNTS_PER_TRANSACTION: i64 = 500;

/// A request for a page of the user list.
#[derive(Clone, Debug, Default)]
pub struct UserListRequest {
    /// The text that their names or user ids must contain.
    pub search: Option<String>,
    /// The token of the page.
    pub from: Option<String>,
    /// The largest number of users on the page.
    pub limit: Option<u64>,
}

/// A page of the user list.
#[derive(Debug)]
pub struct UserListPage {
    /// The users.
    pub users: Vec<ListedUser>,
    /// The token of the next page.
    pub next_batch: Option<String>,
    /// The number of users on all pages.
    pub total: u64,
}

/// A user in the list, with the public profile.
#[derive(Clone, Debug)]
pub struct ListedUser {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub displayname: Option<String>,
    pub avatar_url: Option<OwnedMxcUri>,
    /// The time at which one of the user's devices was last seen, in milliseconds since the Unix epoch.
    pub last_seen_ts: Option<i64>,
}

/// The list of the users of this server.
#[derive(Clone)]
pub struct UserList {
    db: Db,
    notices_sender: Option<OwnedUserId>,
    lists_everybody: bool,
}

impl UserList {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            notices_sender: environment.notices_sender.clone(),
            lists_everybody: environment.directory.all_users_listed
                || environment.directory.all_users_searchable,
        }
    }

    /// Returns a page of the users of this server, sorted by name and then by user id.
    ///
    /// If the configuration does not list all users, the list contains the requesting user and the users that they can
    /// find.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a token that is not from this server, and when the search text is too long.
    pub async fn page(&self, session: &Session, request: &UserListRequest) -> Result<UserListPage> {
        let term = request.search.as_deref().unwrap_or_default();
        check_text("search", term, MAX_TERM_BYTES)?;
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let limit = usize::try_from(limit).unwrap_or(1);
        let mut db = self.db.read().await?;
        let except = match &self.notices_sender {
            Some(sender) => self.db.strings.find_user(&mut db, sender.as_str()).await?,
            None => None,
        };
        let query = UserListQuery {
            requester: session.user,
            term: term.trim().to_lowercase(),
            everybody: self.lists_everybody,
            except: except.unwrap_or(UNUSED_USER_NUM),
            after: request
                .from
                .as_deref()
                .map_or(Ok(Vec::new()), parse_page_token)?,
            limit: i64::try_from(limit).unwrap_or(1).saturating_add(1),
        };
        let total = user_directory::count_users(&mut db, &query).await?;
        let mut listed = user_directory::list_users(&mut db, &query).await?;
        let has_more = listed.len() > limit;
        listed.truncate(limit);
        let last = listed.last().filter(|_| has_more);
        Ok(UserListPage {
            next_batch: last.map(|last| page_token(&last.list_key)),
            users: listed.into_iter().filter_map(listed_user).collect(),
            total: u64::try_from(total).unwrap_or(0),
        })
    }

    /// Sets the list key of accounts that are older than the list.
    pub async fn set_missing_list_keys(&self) -> Result<()> {
        loop {
            let mut tx = self.db.write().await?;
            let unlisted =
                user_directory::unlisted_users(&mut tx, ACCOUNTS_PER_TRANSACTION).await?;
            if unlisted.is_empty() {
                return Ok(());
            }
            for user in unlisted {
                let name = user.display_name;
                let name = name.and_then(|json| serde_json::from_str::<String>(&json).ok());
                let (num, user_id) = (user.user_num, &user.user_id);
                user_directory::set_search_text(&mut tx, num, user_id, name.as_deref()).await?;
            }
            tx.commit().await?;
        }
    }
}

fn listed_user(listed: ListedUserRow) -> Option<ListedUser> {
    let text = |json: Option<String>| -> Option<String> { serde_json::from_str(&json?).ok() };
    let last_seen_ts = listed.last_seen_ts.max(listed.device_seen_ts);
    Some(ListedUser {
        user: listed.user_num,
        user_id: UserId::parse(&listed.user_id).ok()?,
        displayname: text(listed.displayname),
        avatar_url: text(listed.avatar_url).map(OwnedMxcUri::from),
        last_seen_ts: Some(last_seen_ts).filter(|ts| *ts > 0),
    })
}

/// Writes a list key as a page token.
fn page_token(list_key: &[u8]) -> String {
    Base64::<UrlSafe, _>::new(list_key).encode()
}

fn parse_page_token(token: &str) -> Result<Vec<u8>> {
    let unknown = || Error::invalid_param("from is not a token of this list");
    if token.len() > MAX_TOKEN_BYTES {
        return Err(unknown());
    }
    let place = Base64::<UrlSafe>::parse(token).map_err(|_| unknown())?;
    Ok(place.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{storage::ReadAccess, users::testing::TestUsers};

    #[test]
    fn a_page_token_contains_the_list_key() {
        let key = b"alice\0@alice:here".to_vec();

        assert_eq!(parse_page_token(&page_token(&key)).unwrap(), key);
        assert!(parse_page_token("%").is_err());
    }

    #[tokio::test]
    async fn accounts_older_than_the_list_get_a_list_key() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let mut tx = test.test.db.write().await.unwrap();
        let forget = tx.query("UPDATE accounts SET list_key = NULL");
        forget.execute().await.unwrap();
        tx.commit().await.unwrap();
        let request = UserListRequest::default();

        let before = test.users.user_list.page(&alice, &request).await.unwrap();
        test.users.user_list.set_missing_list_keys().await.unwrap();
        let after = test.users.user_list.page(&alice, &request).await.unwrap();

        assert!(before.users.is_empty());
        assert_eq!(after.users[0].user_id, alice.user_id);
    }
}
