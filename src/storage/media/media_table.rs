//! The metadata of media and thumbnails. The `media` service keeps their contents in files.

use crate::{
    error::Result,
    numbers::{MediaNum, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// Media in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct MediaRow {
    /// The number of the media.
    pub num: MediaNum,
    /// The number of the server name.
    pub server: StringNum,
    /// The user who uploaded it, for media of this server.
    pub uploader: Option<UserNum>,
    /// The SHA-256 hash of the content.
    pub sha256: Vec<u8>,
    /// The length of the content in bytes.
    pub size: i64,
    /// The content type that the uploader gave.
    pub content_type: String,
    /// The file name that the uploader gave.
    pub file_name: Option<String>,
    /// The time of the last request for it, to the hour.
    pub last_access_ts: i64,
}

/// Media to be stored.
#[derive(Debug)]
pub struct NewMedia<'a> {
    /// The number of the server name.
    pub server: StringNum,
    /// The media id, unique on that server.
    pub media_id: &'a str,
    /// The user who uploaded it, for media of this server.
    pub uploader: Option<UserNum>,
    /// The SHA-256 hash of the content.
    pub sha256: &'a [u8],
    /// The length of the content in bytes.
    pub size: i64,
    /// The content type that the uploader gave.
    pub content_type: &'a str,
    /// The file name that the uploader gave.
    pub file_name: Option<&'a str>,
    pub created_ts: i64,
}

/// The key of a thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThumbnailKey {
    /// The number of the media.
    pub media: MediaNum,
    /// The width of the box that it must fit.
    pub width: i64,
    /// The height of that box.
    pub height: i64,
    /// `crop`, `scale` or `whole`.
    pub method: &'static str,
    /// Whether it may be animated.
    pub animated: bool,
}

/// A thumbnail in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ThumbnailRow {
    /// The SHA-256 hash of the content.
    pub sha256: Vec<u8>,
    /// The length of the content in bytes.
    pub size: i64,
    pub content_type: String,
}

/// Returns the media of a server with this media id.
pub async fn find(
    db: &mut impl ReadAccess,
    server: StringNum,
    media_id: &str,
) -> Result<Option<MediaRow>> {
    db.query(
        "SELECT num, server, uploader, sha256, size, content_type, file_name, last_access_ts
         FROM media WHERE server = $1 AND media_id = $2",
    )
    .bind(server)
    .bind(media_id)
    .fetch_optional()
    .await
}

/// Returns whether media with this id was stored before the freeze of unauthenticated media.
pub async fn is_before_freeze(
    db: &mut impl ReadAccess,
    server: StringNum,
    media_id: &str,
) -> Result<bool> {
    let found = db
        .query("SELECT before_freeze FROM media WHERE server = $1 AND media_id = $2")
        .bind(server)
        .bind(media_id)
        .fetch_scalar::<bool>()
        .await?;
    Ok(found.unwrap_or(false))
}

/// Stores media under an unused id.
pub async fn insert(tx: &mut WriteTx, media: &NewMedia<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO media (server, media_id, uploader, sha256, size, content_type, file_name,
                            created_ts, last_access_ts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
    )
    .bind(media.server)
    .bind(media.media_id)
    .bind(media.uploader)
    .bind(media.sha256)
    .bind(media.size)
    .bind(media.content_type)
    .bind(media.file_name)
    .bind(media.created_ts)
    .execute()
    .await?;
    Ok(())
}

/// Stores the time of a request for each of these media.
pub async fn set_last_access(tx: &mut WriteTx, media: &[MediaNum], now_ms: i64) -> Result<()> {
    tx.query(
        "UPDATE media SET last_access_ts = $1
         WHERE num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND last_access_ts < $1",
    )
    .bind(now_ms)
    .bind(number_list(media.iter().copied()))
    .execute()
    .await?;
    Ok(())
}

/// Returns a stored thumbnail.
pub async fn find_thumbnail(
    db: &mut impl ReadAccess,
    key: &ThumbnailKey,
) -> Result<Option<ThumbnailRow>> {
    db.query(
        "SELECT sha256, size, content_type FROM thumbnails
         WHERE media = $1 AND width = $2 AND height = $3 AND method = $4 AND animated = $5",
    )
    .bind(key.media)
    .bind(key.width)
    .bind(key.height)
    .bind(key.method)
    .bind(key.animated)
    .fetch_optional()
    .await
}

/// Stores a thumbnail, unless one is already stored.
pub async fn insert_thumbnail(
    tx: &mut WriteTx,
    key: &ThumbnailKey,
    thumbnail: &ThumbnailRow,
) -> Result<()> {
    tx.query(
        "INSERT INTO thumbnails (media, width, height, method, animated, sha256, size, content_type)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (media, width, height, method, animated) DO NOTHING",
    )
    .bind(key.media)
    .bind(key.width)
    .bind(key.height)
    .bind(key.method)
    .bind(key.animated)
    .bind(&thumbnail.sha256)
    .bind(thumbnail.size)
    .bind(&thumbnail.content_type)
    .execute()
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    async fn store(test: &TestDb, media_id: &str) -> StringNum {
        let mut tx = test.db.write().await.unwrap();
        let server = tx.intern("a.example").await.unwrap();
        let media = NewMedia {
            server,
            media_id,
            uploader: Some(UserNum::new(7)),
            sha256: &[1; 32],
            size: 5,
            content_type: "text/plain",
            file_name: Some("☕.txt"),
            created_ts: 1_000,
        };
        insert(&mut tx, &media).await.unwrap();
        tx.commit().await.unwrap();
        server
    }

    #[tokio::test]
    async fn media_is_found_by_its_server_and_id() {
        let test = TestDb::new().await;
        let server = store(&test, "one").await;

        let mut db = test.db.read().await.unwrap();
        let found = find(&mut db, server, "one").await.unwrap().unwrap();
        let of_another_server = find(&mut db, StringNum::new(server.as_i64() + 1), "one")
            .await
            .unwrap();

        assert_eq!(found.sha256, [1; 32]);
        assert_eq!((found.size, found.last_access_ts), (5, 1_000));
        assert_eq!(found.content_type, "text/plain");
        assert_eq!(found.file_name.as_deref(), Some("☕.txt"));
        assert_eq!(of_another_server, None);
    }

    #[tokio::test]
    async fn an_access_never_moves_back() {
        let test = TestDb::new().await;
        let server = store(&test, "one").await;
        let mut db = test.db.read().await.unwrap();
        let num = find(&mut db, server, "one").await.unwrap().unwrap().num;

        let mut tx = test.db.write().await.unwrap();
        set_last_access(&mut tx, &[num, MediaNum::new(num.as_i64() + 1)], 5_000)
            .await
            .unwrap();
        set_last_access(&mut tx, &[num], 4_000).await.unwrap();
        tx.commit().await.unwrap();

        let found = find(&mut db, server, "one").await.unwrap().unwrap();
        assert_eq!(found.last_access_ts, 5_000);
    }

    #[tokio::test]
    async fn the_first_thumbnail_of_a_key_is_kept() {
        let test = TestDb::new().await;
        let server = store(&test, "one").await;
        let mut db = test.db.read().await.unwrap();
        let media = find(&mut db, server, "one").await.unwrap().unwrap().num;
        let key = ThumbnailKey {
            media,
            width: 32,
            height: 32,
            method: "crop",
            animated: false,
        };
        let first = ThumbnailRow {
            sha256: vec![2; 32],
            size: 9,
            content_type: "image/png".to_owned(),
        };
        let second = ThumbnailRow {
            size: 10,
            ..first.clone()
        };

        let mut tx = test.db.write().await.unwrap();
        insert_thumbnail(&mut tx, &key, &first).await.unwrap();
        insert_thumbnail(&mut tx, &key, &second).await.unwrap();
        tx.commit().await.unwrap();

        let found = find_thumbnail(&mut db, &key).await.unwrap();
        let moving = ThumbnailKey {
            animated: true,
            ..key
        };
        assert_eq!(found, Some(first));
        assert_eq!(find_thumbnail(&mut db, &moving).await.unwrap(), None);
    }
}
