//! Carries what a database of the original holds into the store: project by project, page by page, so that memory does
//! not grow with it. Doing it again changes nothing: what is in the store already stays as it is there.

mod account;

use std::collections::BTreeMap;

use super::Services;
use super::transfer::{Adopted, usable_length};
use crate::domain::record::{self, Archive};
use crate::domain::{Scope, Timestamp};
use crate::ports::Embedder;
use crate::store::copy::{CarriedRow, Registered};
use crate::store::identity::ApiKey;
use crate::store::original::{Carried, Flaws, Names, Original, place};

/// What was found, and what of it was carried over.
#[derive(Debug, Default)]
pub struct Report {
    /// Every project with anything in it.
    pub projects: Vec<ProjectReport>,
    /// Rows that are kept for later versions, by table.
    pub carried: BTreeMap<String, Count>,
    /// Projects that are deleted there and were left out.
    pub deleted: Vec<Scope>,
    /// Rows that were left out.
    pub flaws: Flaws,
}

/// How many there are, and how many of them are new here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// There.
    pub found: u64,
    /// Of these, carried over by this run.
    pub new: u64,
}

/// What a project holds there.
#[derive(Debug, PartialEq)]
pub struct ProjectReport {
    /// Which.
    pub scope: Scope,
    /// Sound patterns.
    pub patterns: Count,
    /// Vectors.
    pub vectors: u64,
    /// Of these, made by the model that is configured here; the others are made anew.
    pub usable_vectors: u64,
    /// Patterns with tags.
    pub tagged: u64,
    /// Recurring issues.
    pub feedback: u64,
    /// Calls of learn.
    pub runs: u64,
    /// API keys.
    pub keys: Count,
}

/// What an import would find.
///
/// # Errors
/// When the database cannot be read.
pub async fn survey(
    original: &mut Original,
    embedder: Option<&dyn Embedder>,
    now: Timestamp,
) -> anyhow::Result<Report> {
    walk(original, embedder, now, None).await
}

impl Services {
    /// Carries everything over.
    ///
    /// # Errors
    /// When the database cannot be read, or the store cannot be written; what is done until then stays.
    pub async fn import_original(&self, original: &mut Original) -> anyhow::Result<Report> {
        walk(original, self.embedder.as_deref(), self.clock.now(), Some(self)).await
    }
}

async fn walk(
    original: &mut Original,
    embedder: Option<&dyn Embedder>,
    now: Timestamp,
    into: Option<&Services>,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut projects = original.projects(&mut report.flaws).await?;
    report.deleted = std::mem::take(&mut projects.deleted);
    let mut lengths: BTreeMap<Option<String>, Option<usize>> = BTreeMap::new();
    for (scope, names) in &projects.live {
        if let Some(services) = into {
            register(services, scope, names, now).await?;
        }
        let mut project = ProjectReport::new(scope);
        let mut after = String::new();
        while let Some((archive, last)) = original.patterns(scope, &after, &mut report.flaws).await? {
            after = last;
            let length = match lengths.get(&archive.model) {
                Some(length) => *length,
                None => {
                    let length = usable_length(embedder, archive.model.as_deref()).await;
                    lengths.insert(archive.model.clone(), length);
                    length
                }
            };
            project.vectors += archive.vectors.len() as u64;
            let usable = archive.vectors.iter().filter(|(_, values)| Some(values.len()) == length);
            project.usable_vectors += usable.count() as u64;
            let total = archive.patterns.len() as u64;
            let adopted = match into {
                Some(services) => services.adopt(archive).await?,
                None => check(archive, now),
            };
            project.patterns.found += total - adopted.flawed.len() as u64;
            project.patterns.new += adopted.stored as u64;
            for (key, flaws) in adopted.flawed {
                let flaws: Vec<String> =
                    flaws.iter().map(|flaw| format!("{}: {}", flaw.path.join("."), flaw.message)).collect();
                report.flaws.add(place(scope, key.as_str()), flaws.join("; "));
            }
        }
        let rest = original.rest(scope, &mut report.flaws).await?;
        project.tagged = rest.skills.len() as u64;
        project.feedback = rest.feedback.len() as u64;
        project.runs = rest.runs;
        if let Some(services) = into {
            services.adopt(rest).await?;
        }
        for key in original.keys(scope, &mut report.flaws).await? {
            project.keys.found += 1;
            if let Some(services) = into {
                match take_key(services, &key).await? {
                    Taken::New => project.keys.new += 1,
                    Taken::Known => {}
                    Taken::Elsewhere => {
                        report
                            .flaws
                            .add(place(scope, &format!("API key {}", key.id)), "its secret opens another project");
                    }
                }
            }
        }
        report.projects.push(project);
    }
    let mut after = None;
    while let Some((rows, end)) = original.carried(&projects, after.as_ref(), &mut report.flaws).await? {
        after = Some(end);
        carry(rows, into, &mut report.carried).await?;
    }
    Ok(report)
}

impl ProjectReport {
    fn new(scope: &Scope) -> Self {
        let (patterns, keys) = Default::default();
        Self { scope: scope.clone(), patterns, vectors: 0, usable_vectors: 0, tagged: 0, feedback: 0, runs: 0, keys }
    }
}

/// What adopting would say.
fn check(archive: Archive, now: Timestamp) -> Adopted {
    let flawed = |(key, data): (crate::domain::PatternKey, _)| {
        record::parse(key.clone(), data, now).err().map(|flaws| (key, flaws))
    };
    Adopted { stored: 0, flawed: archive.patterns.into_iter().filter_map(flawed).collect() }
}

async fn register(services: &Services, scope: &Scope, names: &Names, now: Timestamp) -> anyhow::Result<()> {
    let created_at = names.created_at.unwrap_or(now);
    let registered = Registered {
        tenant_name: names.tenant.clone().unwrap_or_else(|| scope.tenant().to_owned()),
        tenant_created_at: names.tenant_created_at.unwrap_or(created_at),
        name: names.project.clone().unwrap_or_else(|| scope.project().to_owned()),
        created_at,
    };
    let mut work = services.store.begin(scope).await?;
    work.copying().register(&registered).await?;
    Ok(work.commit().await?)
}

/// What became of a key.
enum Taken {
    New,
    Known,
    Elsewhere,
}

async fn take_key(services: &Services, key: &ApiKey) -> anyhow::Result<Taken> {
    let mut work = services.store.begin(&key.scope).await?;
    if work.keys().get(&key.id).await?.is_some() {
        // It may have a new secret by now, or be revoked.
        return Ok(Taken::Known);
    }
    if services.store.api_keys().find(&key.hash).await?.is_some() {
        return Ok(Taken::Elsewhere);
    }
    work.keys().insert(key).await?;
    work.commit().await?;
    Ok(Taken::New)
}

async fn carry(
    rows: Vec<Carried>,
    into: Option<&Services>,
    counts: &mut BTreeMap<String, Count>,
) -> anyhow::Result<()> {
    let mut tenants: BTreeMap<String, Vec<CarriedRow>> = BTreeMap::new();
    for Carried { tenant, row } in rows {
        counts.entry(row.source.clone()).or_default().found += 1;
        tenants.entry(tenant).or_default().push(row);
    }
    let Some(services) = into else { return Ok(()) };
    for (tenant, rows) in tenants {
        let mut work = services.store.begin(&Scope::of_tenant(&tenant)).await?;
        let new = work.copying().put_carried(&rows).await?;
        for row in &rows {
            account::adopt(work.as_mut(), row).await?;
        }
        work.commit().await?;
        if let Some(row) = rows.first() {
            // A page is of one table.
            counts.entry(row.source.clone()).or_default().new += new;
        }
    }
    Ok(())
}
