//! The latest changes of profile fields.

use crate::{
    error::Result,
    numbers::{Position, PositionRange, UserNum},
    storage::{ReadAccess, WriteTx, number_list, text_list},
};

/// The number of changes of a user that are kept. A profile has far fewer fields, but a user could set and remove more
/// and more of them.
const MAX_CHANGES_OF_USER: i64 = 1_000;

/// A field of a user's profile that changed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ProfileChangeRow {
    pub user_num: UserNum,
    pub field: String,
}

/// A field of a user's profile.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UserProfileFieldRow {
    pub user_num: UserNum,
    pub field: String,
    /// The value as JSON.
    pub value: String,
}

/// Records that a field changed.
pub async fn record(
    tx: &mut WriteTx,
    user: UserNum,
    field: &str,
    position: Position,
) -> Result<()> {
    tx.query(
        "INSERT INTO profile_changes (user_num, field, position)
         VALUES ($1, $2, $3)
         ON CONFLICT (user_num, field) DO UPDATE
         SET position = excluded.position",
    )
    .bind(user)
    .bind(field)
    .bind(position)
    .execute()
    .await?;
    tx.query(
        "DELETE FROM profile_changes
         WHERE user_num = $1 AND position <= (
             SELECT position FROM profile_changes
             WHERE user_num = $1 ORDER BY position DESC LIMIT 1 OFFSET $2)",
    )
    .bind(user)
    .bind(MAX_CHANGES_OF_USER)
    .execute()
    .await?;
    Ok(())
}

/// Removes the changes of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM profile_changes WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

/// Returns those of some fields that changed in a range of positions, the newest change first.
pub async fn in_range<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    range: PositionRange,
    fields: impl IntoIterator<Item = S>,
    limit: i64,
) -> Result<Vec<ProfileChangeRow>> {
    db.query(
        "SELECT user_num, field FROM profile_changes
         WHERE position > $1 AND position <= $2 AND field IN (SELECT value FROM json_each($3))
         ORDER BY position DESC LIMIT $4",
    )
    .bind(range.after)
    .bind(range.up_to)
    .bind(text_list(fields))
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns those of some fields that users have set.
pub async fn values<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    users: impl IntoIterator<Item = UserNum>,
    fields: impl IntoIterator<Item = S>,
) -> Result<Vec<UserProfileFieldRow>> {
    db.query(
        "SELECT user_num, field, value FROM profiles
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
           AND field IN (SELECT value FROM json_each($2))
         ORDER BY user_num, field",
    )
    .bind(number_list(users))
    .bind(text_list(fields))
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{testing::TestDb, users::profiles};

    const ALICE: UserNum = UserNum::new(1);
    const BOB: UserNum = UserNum::new(2);

    #[tokio::test]
    async fn only_the_latest_change_of_a_field_is_kept() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (user, field, position) in [
            (ALICE, "m.status", 1),
            (BOB, "m.status", 2),
            (ALICE, "m.tz", 3),
            (ALICE, "m.status", 4),
        ] {
            record(&mut tx, user, field, Position::new(position))
                .await
                .unwrap();
        }
        let range = PositionRange {
            after: Position::ZERO,
            up_to: Position::new(4),
        };

        let found = in_range(&mut tx, range, ["m.status"], 10).await.unwrap();

        let users: Vec<UserNum> = found.iter().map(|row| row.user_num).collect();
        assert_eq!(users, [ALICE, BOB]);
        let all = in_range(&mut tx, range, ["m.status", "m.tz"], 10).await;
        assert_eq!(all.unwrap().len(), 3);
        remove_all(&mut tx, ALICE).await.unwrap();
        let left = in_range(&mut tx, range, ["m.status", "m.tz"], 10).await;
        assert_eq!(left.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_values_of_several_users_are_read_at_once() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (user, field) in [(ALICE, "m.status"), (ALICE, "m.tz"), (BOB, "m.tz")] {
            profiles::set(&mut tx, user, field, r#""x""#).await.unwrap();
        }

        let found = values(&mut tx, [ALICE, BOB], ["m.tz"]).await.unwrap();

        let users: Vec<UserNum> = found.iter().map(|row| row.user_num).collect();
        assert_eq!(users, [ALICE, BOB]);
        assert_eq!(found[0].value, r#""x""#);
    }

    #[tokio::test]
    async fn a_user_has_a_bounded_number_of_changes() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        for number in 1..=MAX_CHANGES_OF_USER + 5 {
            let field = format!("m.field_{number}");
            record(&mut tx, ALICE, &field, Position::new(number))
                .await
                .unwrap();
        }

        let range = PositionRange {
            after: Position::ZERO,
            up_to: Position::MAX,
        };
        let fields = ["m.field_5", "m.field_6"];
        let found = in_range(&mut tx, range, fields, 10).await.unwrap();
        assert_eq!(found.len(), 1);
    }
}
