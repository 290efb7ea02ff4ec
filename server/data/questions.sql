-- How far has the year come?
SELECT count(*) AS departures, min(time_hour) AS first_hour, max(time_hour) AS last_hour
FROM flights;

-- Who flies most, and how late do they leave?
SELECT carrier, count(*) AS departures, round(avg(dep_delay), 2) AS average_delay_minutes
FROM flights
GROUP BY carrier
ORDER BY departures DESC, carrier
LIMIT 5;

-- Which were the busiest days?
SELECT month, day, count(*) AS departures, sum(distance) AS miles
FROM flights
GROUP BY month, day
ORDER BY departures DESC, month, day
LIMIT 3;

-- At which hour of the day is it best to stay at home?
SELECT hour, avg(dep_delay) AS average_delay_minutes, count(*) FILTER (WHERE dep_delay >= 60) AS an_hour_late
FROM flights
WHERE dep_time IS NOT NULL
GROUP BY hour
ORDER BY average_delay_minutes DESC, hour
LIMIT 5;

-- What is not known?
SELECT count(*) - count(dep_time) AS never_left, count(*) - count(arr_time) AS never_landed,
    count(*) - count(air_time) AS no_time_in_the_air, count(*) - count(tailnum) AS no_tail_number
FROM flights;

-- Where on the west coast do aircraft numbered N7 go?
SELECT dest, count(*) AS departures, count(DISTINCT tailnum) AS aircraft, min(air_time) AS fastest_minutes
FROM flights
WHERE tailnum LIKE 'N7%' AND dest IN ('LAX', 'PDX', 'SAN', 'SEA', 'SFO')
GROUP BY dest
ORDER BY departures DESC, dest;

-- What is each airport's favourite destination?
WITH routes AS (
    SELECT origin, dest, count(*) AS departures, max(distance) AS miles
    FROM flights
    GROUP BY origin, dest
),
ranked AS (
    SELECT origin, dest, departures, miles, row_number() OVER (PARTITION BY origin ORDER BY departures DESC, dest) AS place
    FROM routes
)
SELECT origin, dest, departures, miles
FROM ranked
WHERE place = 1
ORDER BY origin;
