use super::*;

fn column(data_type: &str, not_null: bool, has_default: bool) -> Column {
    Column {
        data_type: data_type.to_owned(),
        not_null,
        has_default,
    }
}

fn table(columns: &[(&str, Column)], unique: &[&[&str]]) -> Table {
    Table {
        is_table: true,
        is_ours: true,
        owner: "app".to_owned(),
        columns: columns
            .iter()
            .map(|(name, column)| ((*name).to_owned(), column.clone()))
            .collect(),
        unique: unique
            .iter()
            .map(|columns| columns.iter().map(|&name| name.to_owned()).collect())
            .collect(),
        repeated_pairs: 0,
    }
}

fn schema(tables: Vec<(&str, Table)>) -> Schema {
    Schema {
        name: "public".to_owned(),
        tables: tables
            .into_iter()
            .map(|(name, table)| (name.to_owned(), table))
            .collect(),
        ..Schema::default()
    }
}

fn uuid() -> Column {
    column("uuid", true, false)
}

#[test]
fn without_the_apps_tables_there_is_nothing_to_share() {
    let problems = plan(&schema(vec![]), &Rules::default()).unwrap_err();
    assert_eq!(
        problems,
        [
            "there is no table organizations in the schema public",
            "there is no table admins in the schema public"
        ]
    );
    let adopted = Schema {
        is_adopted: true,
        ..schema(vec![])
    };
    assert_eq!(plan(&adopted, &Rules::default()), Ok(vec![]));
}

#[test]
fn a_half_built_index_is_built_anew_and_a_complete_one_left_alone() {
    let mut schema = schema(vec![(
        "project_admins",
        table(
            &[
                ("id", column("uuid", true, true)),
                ("project_id", uuid()),
                ("admin_id", uuid()),
                ("role", column("text", true, false)),
                ("created_at", column("timestamp", true, false)),
                ("updated_at", column("timestamp", true, false)),
                ("deleted_at", column("timestamp", false, false)),
            ],
            &[&["id"]],
        ),
    )]);
    schema.is_adopted = true;
    schema.indexes.insert("usher_project_admins_pair".to_owned(), false);
    schema.indexes.insert("usher_project_admins_admin".to_owned(), true);
    let steps = plan(&schema, &Rules::default()).unwrap();
    let statements: Vec<_> = steps.into_iter().flat_map(|step| step.statements).collect();
    assert_eq!(
        statements,
        [
            "drop index concurrently if exists usher_project_admins_pair",
            "create unique index concurrently if not exists usher_project_admins_pair on project_admins (project_id, admin_id)",
        ]
    );
}

#[test]
fn what_is_in_the_way_is_said_all_at_once() {
    let mut schema = schema(vec![
        (
            "organizations",
            table(&[("id", column("int8", true, true))], &[&["id"]]),
        ),
        (
            "admins",
            table(
                &[
                    ("id", uuid()),
                    ("password", column("text", true, false)),
                    ("email", column("text", true, false)),
                ],
                &[&["id"]],
            ),
        ),
        ("projects", table(&[("id", uuid())], &[&["id"]])),
        ("invites", table(&[("id", uuid())], &[&["id"]])),
    ]);
    schema.elsewhere.push(("project_admins".to_owned(), "app".to_owned()));
    let Some(admins) = schema.tables.get_mut("admins") else {
        panic!()
    };
    admins.is_ours = false;
    let rules = Rules {
        identities: Identities::Table {
            provider: "clerk".to_owned(),
            issuers: vec!["https://clerk.example.com".to_owned()],
        },
        ..Rules::default()
    };
    let problems = plan(&schema, &rules).unwrap_err();
    for words in [
        "project_admins is in the schema app",
        "admins belongs to the role app",
        "table invites that is not usher's",
        "organizations.id is of the type int8, but usher needs uuid",
        "projects has no column organization_id",
        "admins.password must not be null and has no default",
        "admin_identities, but there is none",
    ] {
        assert!(
            problems.iter().any(|problem| problem.contains(words)),
            "{words}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 7, "{problems:#?}");
}
