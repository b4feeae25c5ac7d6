//! What every table of a database holds, as counts and digests: whatever tables there are, so that none is forgotten.

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, TypeInfo, ValueRef};

use crate::store::backup::{Digest, Table};

/// Every table in the order of their names; of tables that a module keeps, those that it keeps them in.
pub(super) async fn tables(connection: &mut SqliteConnection) -> anyhow::Result<Vec<Table>> {
    let names = sqlx::query(
        "select name, wr from pragma_table_list where schema = 'main' and type in ('table', 'shadow') \
         and name <> 'sqlite_schema' order by name",
    );
    let mut tables = Vec::new();
    for row in names.fetch_all(&mut *connection).await? {
        let (name, without_rowid): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        let table = table(connection, &name, without_rowid).await;
        tables.push(table.with_context(|| format!("reading table {name}"))?);
    }
    Ok(tables)
}

async fn table(connection: &mut SqliteConnection, name: &str, without_rowid: bool) -> anyhow::Result<Table> {
    let rows = sqlx::query("select name, pk from pragma_table_info($1) order by cid").bind(name.to_owned());
    let mut columns: Vec<String> = Vec::new();
    let mut key: Vec<(i64, String)> = Vec::new();
    for row in rows.fetch_all(&mut *connection).await? {
        let (column, place): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        if place > 0 {
            key.push((place, quoted(&column)));
        }
        columns.push(column);
    }
    key.sort();
    let mut order: Vec<String> = key.into_iter().map(|(_, column)| column).collect();
    if order.is_empty() && !without_rowid {
        order.push("rowid".to_owned());
    }
    let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let sql = format!("select {} from {} order by {}", list.join(", "), quoted(name), order.join(", "));
    let (mut count, mut digest) = (0, Digest::new());
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        count += 1;
        for column in 0..columns.len() {
            let value = row.try_get_raw(column)?;
            // The kind of the value, whatever its column says; nothing else has the kind 0.
            let kind = if value.is_null() { 0 } else { value.type_info().name().as_bytes()[0] };
            digest.add(&[kind]);
            match kind {
                0 => {}
                b'I' => digest.add(&row.try_get_unchecked::<i64, _>(column)?.to_le_bytes()),
                b'R' => digest.add(&row.try_get_unchecked::<f64, _>(column)?.to_le_bytes()),
                _ => {
                    let bytes: &[u8] = row.try_get_unchecked(column)?;
                    digest.add(&(bytes.len() as u64).to_le_bytes());
                    digest.add(bytes);
                }
            }
        }
    }
    Ok(Table { name: name.to_owned(), columns, rows: count, sha256: digest.finish() })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
