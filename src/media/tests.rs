use std::{fs, io::Cursor, path::Path};

use futures_util::stream;
use image::{ImageFormat, RgbImage};
use ruma::{MxcUri, server_name, signatures::Ed25519KeyPair};
use tokio::io::AsyncReadExt;

use super::*;
use crate::{matrix::SigningKey, numbers::UserNum, storage::testing::TestDb};

const MAX_TEST_BYTES: u64 = 100_000;

fn open(test: &TestDb, clock: &Clock) -> Media {
    let settings = MediaSettings {
        server_name: server_name!("a.example").to_owned(),
        directory: test.dir.path().join("media"),
        max_upload_bytes: MAX_TEST_BYTES,
        max_remote_bytes: MAX_TEST_BYTES,
        url_previews: UrlPreviewsSection::default(),
    };
    let document = Ed25519KeyPair::generate();
    let key = SigningKey::from_der(settings.server_name.clone(), &document, "1").unwrap();
    let config = Config::default();
    let federation = Federation::new(&test.db, clock, &config, Arc::new(key)).unwrap();
    Media::open(&test.db, clock, &test.tasks, settings, &federation).unwrap()
}

fn parts(parts: Vec<Vec<u8>>) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
    stream::iter(parts.into_iter().map(|part| Ok(Bytes::from(part))))
}

async fn upload(media: &Media, content: &[u8]) -> OwnedMxcUri {
    let upload = UploadMetadata {
        uploader: UserNum::new(7),
        content_type: Some("text/plain"),
        file_name: Some("notes\u{0}.txt"),
        announced_size: None,
    };
    let parts = parts(content.chunks(1000).map(<[u8]>::to_vec).collect());
    media.upload(upload, parts).await.unwrap()
}

async fn content(media: &Media, uri: &MxcUri) -> MediaContent {
    let (server, media_id) = uri.parts().unwrap();
    media
        .content(
            server,
            media_id,
            Duration::ZERO,
            RemoteMediaPolicy::LocalOnly,
        )
        .await
        .unwrap()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, _| {
        [u8::try_from(x % 251).unwrap(); 3].into()
    });
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn count_files(path: &Path) -> usize {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { count_files(&path) } else { 1 })
        .sum()
}

#[tokio::test]
async fn uploads_are_served_after_a_restart() {
    let test = TestDb::new().await;
    let uri = upload(&open(&test, &Clock::system()), &[7; 5000]).await;

    let test = test.reopen().await;
    let mut found = content(&open(&test, &Clock::system()), &uri).await;

    let mut bytes = Vec::new();
    found.file.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [7; 5000]);
    assert_eq!(found.size, 5000);
    assert_eq!(found.content_type, "text/plain");
    assert_eq!(found.file_name.as_deref(), Some("notes.txt"));
}

#[tokio::test]
async fn uploading_content_twice_stores_one_file_with_two_ids() {
    let test = TestDb::new().await;
    let media = open(&test, &Clock::system());

    let (one, other) = (upload(&media, b"same").await, upload(&media, b"same").await);

    assert_ne!(one, other);
    let hashes = (
        content(&media, &one).await.hash,
        content(&media, &other).await.hash,
    );
    assert_eq!(hashes.0, hashes.1);
    assert_eq!(count_files(&test.dir.path().join("media")), 1);
}

#[tokio::test]
async fn too_large_and_interrupted_uploads_leave_no_files() {
    let test = TestDb::new().await;
    let media = open(&test, &Clock::system());
    let upload = |announced_size| UploadMetadata {
        uploader: UserNum::new(7),
        content_type: None,
        file_name: None,
        announced_size,
    };
    let too_much = parts(vec![vec![0; 60_000]; 2]);
    let broken = stream::iter([Ok(Bytes::from("half")), Err(std::io::Error::other("gone"))]);

    let announced = media
        .upload(upload(Some(MAX_TEST_BYTES + 1)), parts(vec![]))
        .await;
    let too_large = media.upload(upload(None), too_much).await;
    let broke_off = media.upload(upload(None), broken).await;

    assert!(matches!(announced, Err(Error::TooLarge(_))));
    assert!(matches!(too_large, Err(Error::TooLarge(_))));
    assert!(matches!(broke_off, Err(Error::InvalidParam(_))));
    assert_eq!(count_files(&test.dir.path().join("media")), 0);
}

#[tokio::test]
async fn a_file_of_the_maximum_size_is_accepted() {
    let test = TestDb::new().await;
    let media = open(&test, &Clock::system());

    let uri = upload(&media, &vec![1; 100_000]).await;

    assert_eq!(content(&media, &uri).await.size, MAX_TEST_BYTES);
}

#[tokio::test]
async fn concurrent_requests_make_a_thumbnail_once() {
    let test = TestDb::new().await;
    let media = open(&test, &Clock::system());
    let uri = upload(&media, &png(640, 480)).await;
    let (server, media_id) = uri.parts().unwrap();
    let wanted = ThumbnailRequest::new(300, 200, None).unwrap();

    let asking = (0..8).map(|_| {
        media.thumbnail(
            MediaAddress { server, media_id },
            wanted,
            Duration::ZERO,
            RemoteMediaPolicy::LocalOnly,
        )
    });
    let made = futures_util::future::join_all(asking).await;
    let hashes: Vec<ContentHash> = made.into_iter().map(|made| made.unwrap().hash).collect();

    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    assert_eq!(count_files(&test.dir.path().join("media")), 2);
    let original = content(&media, &uri).await;
    fs::write(media.files.content_path(original.hash), "broken").unwrap();
    let again = media
        .thumbnail(
            MediaAddress { server, media_id },
            wanted,
            Duration::ZERO,
            RemoteMediaPolicy::LocalOnly,
        )
        .await
        .unwrap();
    assert_eq!(again.hash, hashes[0]);
    assert_eq!(again.content_type, "image/png");
}

#[tokio::test]
async fn the_access_time_is_stored_to_the_hour() {
    let test = TestDb::new().await;
    let clock = Clock::manual(1_000_000);
    let media = open(&test, &clock);
    let uri = upload(&media, b"text").await;
    let (server, media_id) = uri.parts().unwrap();

    content(&media, &uri).await;
    media.accesses.write_accesses().await.unwrap();
    let soon = media
        .find_media(
            MediaAddress { server, media_id },
            Duration::ZERO,
            RemoteMediaPolicy::LocalOnly,
        )
        .await
        .unwrap()
        .last_access_ts;
    clock.advance(Duration::from_hours(2));
    content(&media, &uri).await;
    media.accesses.write_accesses().await.unwrap();
    let later = media
        .find_media(
            MediaAddress { server, media_id },
            Duration::ZERO,
            RemoteMediaPolicy::LocalOnly,
        )
        .await
        .unwrap()
        .last_access_ts;

    assert_eq!((soon, later), (1_000_000, 8_200_000));
}

#[test]
fn media_ids_contain_no_path_characters() {
    assert!(is_media_id(&new_media_id()));
    assert!(is_media_id("aZ09_-"));
    for wrong in [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a%2e",
        "é",
        "a\0",
        &"a".repeat(256),
    ] {
        assert!(!is_media_id(wrong), "{wrong:?}");
    }
}

#[test]
fn an_invalid_header_value_is_not_a_content_type() {
    assert_eq!(clean_content_type(Some(" text/plain ")), "text/plain");
    for wrong in [None, Some(""), Some("a\nb"), Some("text/plän")] {
        assert_eq!(clean_content_type(wrong), DEFAULT_CONTENT_TYPE);
    }
}

#[test]
fn a_file_name_is_bounded_and_has_no_control_characters() {
    assert_eq!(
        clean_file_name(Some("☕\r\n.txt")).as_deref(),
        Some("☕.txt")
    );
    assert_eq!(clean_file_name(Some("\u{7}")), None);
    assert_eq!(
        clean_file_name(Some(&"é".repeat(300))),
        Some("é".repeat(255))
    );
}
