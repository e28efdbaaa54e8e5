-- What statements need to know of the configuration: one row, written when usher starts.
create table usher_settings (
    -- There is no second one.
    only_row integer primary key check (only_row = 1),
    -- The domain of MAIL_FROM, in which mails have their Message-IDs.
    mail_domain text not null
) strict;
